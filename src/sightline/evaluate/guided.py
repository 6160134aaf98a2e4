"""Answers that are drawn by a grammar: what the model may not write is taken out before a token is drawn, and nothing else about it changes.

The log-probabilities that answers report stay those of the model over its whole vocabulary, so that an answer is as sure as the model is of it, with a grammar or without. A token is drawn
from what is left of them, made to sum to one again, and temperature and nucleus count among what is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sightline.model.processor import Processor
from sightline.model.token_grammar import Guide, token_grammar
from sightline.samples.exchange import Decoding


def guides_of(processor: Processor, decodings: Mapping[int, Decoding]) -> dict[int, Guide]:
    """A guide for each decoding that asks for a grammar. Refused where the model has none, or `max_tokens` leaves no room for its shortest answer."""
    return {name: Guide(grammar=token_grammar(processor, one.grammar), room=one.max_tokens) for name, one in decodings.items() if one.grammar is not None}


def guided(logps: Tensor, active: Sequence[int], guides: Mapping[int, Guide]) -> Tensor:
    """Log-probabilities (A, V) of the active lines, -inf where a guide does not let a token follow. The given ones are not changed."""
    found = logps.clone()
    for row, one in enumerate(active):
        if (guide := guides.get(one)) is not None:
            ids = torch.from_numpy(guide.allowed()).to(logps.device)
            if guide.tight:
                ids = torch.from_numpy(guide.fitting(int(logps[row, ids].argmax()))).to(logps.device)
            found[row] = -torch.inf
            found[row, ids] = logps[row, ids]
    return found


def taken(guide: Guide, tokens: list[int], logps: list[float]) -> bool:
    """Tell the guide the last token; whether the answer may go on. An end token that only a lack of room brought is taken back: the answer was cut off."""
    guide.take(tokens[-1])
    if guide.closed and tokens[-1] == guide.grammar.end:
        tokens.pop()
        logps.pop()
    return not guide.closed

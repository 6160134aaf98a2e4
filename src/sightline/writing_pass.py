"""A pass in which a model writes: the store that it makes, and every text that was rejected, with its reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightline.data.captioning import Caption
from sightline.data.engine import Local
from sightline.data.operators import seeded
from sightline.data.parts import Parts
from sightline.data.rewriting import AskQuestions, Rewrite
from sightline.data.steps import read_and_apply
from sightline.data.writing_prompts import examples_of
from sightline.evaluate.answers import Remembering
from sightline.evaluate.remote import RemoteAnswerer
from sightline.lineage import sha256_json, write_text
from sightline.samples.store import Store

Writer = Caption | Rewrite | AskQuestions


def write_texts(
    store: Path, operator: Writer, out: Path, answerer: Remembering, *, seed: int, refused: Path | None = None, fresh: bool = False
) -> dict[str, Any]:
    """Write what `operator` makes of the kept rows of `store` to `out`, and every rejected text as a JSON line to the file `refused`; returns the counts.

    A killed or refused pass goes on when it is done again, unless `fresh`; what `answerer` remembers is never asked twice. Raises Refused as the answerer does: endpoint away, budget spent.
    """
    if fresh:
        Parts(out).remove()
    source = Store.open(store)
    examples = examples_of(Path(operator.examples)) if isinstance(operator, Rewrite | AskQuestions) and operator.examples else None
    config = sha256_json([operator.model_dump(mode="json"), examples])
    done = read_and_apply([], source, [operator], out, on_problem="refuse", seed=seed, config=config, answerers=lambda _: answerer, engine=Local(workers=1))
    judged = list(_judged(source, operator, answerer, seed))
    reasons = Counter(one["reason"] for one in judged if one["reason"])
    if refused is not None:
        write_text(refused, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in judged if one["reason"]))
    sent = answerer.answerer
    spent = {"requests": sent.requests, "tokens": sent.tokens} if isinstance(sent, RemoteAnswerer) else {}
    rules = Counter(rule for _, rule in Store.open(out).quarantined())
    texts = {"texts": len(judged), "taken": len(judged) - reasons.total(), "rejected": dict(sorted(reasons.items()))}
    return {**done, "rules": dict(sorted(rules.items())), **texts, **spent}


def _judged(source: Store, operator: Writer, answerer: Remembering, seed: int) -> Iterator[dict[str, str | None]]:
    """Every text of the pass, out of the answers that are remembered: row, reason or None, and the text where it was rejected."""
    for number in source.kept:
        sample = source[int(number)]
        answers = list(answerer.answer(operator.ask(sample, seeded(seed, 0, sample))))
        for one in operator.judged(sample, answers):
            yield {"id": sample.id, "reason": one.reason, "text": one.text if one.reason else None}

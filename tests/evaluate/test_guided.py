"""Answers by a grammar: whatever its weights, a model answers with regions that are read without a problem, and the log-probabilities stay its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import torch

from sightline.errors import Refused
from sightline.evaluate.answering import LocalAnswerer
from sightline.evaluate.generation import draw
from sightline.evaluate.guided import guided, guides_of
from sightline.model.chat import CHAT_FORMATS
from sightline.model.token_grammar import token_grammar
from sightline.model.tokens import TextTokenizer, train_tokenizer
from sightline.samples.codec_table import CODEC
from sightline.samples.codecs import regions_in
from sightline.samples.exchange import Answer, Decoding, Request

KINDS = sorted(set(CODEC.table()) - {"seg"})  # which needs a head: test_drawn_masks.py
QUESTION = tiny.sample(tiny.turn("user", 0, "Where?"), pictures=[tiny.picture(1, 30, 20)])


def answerer(codec: str | None, chat: str = "turns", tokenizer: TextTokenizer | None = None, seed: int = 0) -> LocalAnswerer:
    config = tiny.writer(chat=chat, **({"codec": {"kind": codec}} if codec else {}))
    tokenizer = tokenizer or train_tokenizer(tiny.TEXTS, 340, config.chat_format(), config.controls())
    config = config.resolve(tokenizer.size, control=tokenizer.control)
    return LocalAnswerer(*tiny.built(config, tokenizer, seed), "weights", batch=64)


def asked(one: LocalAnswerer, many: int = 6, **changes: Any) -> list[Answer]:
    """The likeliest answer, and some that are drawn."""
    how = [{"temperature": 0.0}] + [{"temperature": 1.5, "seed": seed, "top_p": 0.98} for seed in range(many - 1)]
    decodings = [Decoding(**{"max_tokens": 60, "grammar": "regions", **said, **changes}) for said in how]
    return list(one.answer([Request(sample=QUESTION, decoding=decoding) for decoding in decodings]))


@pytest.mark.parametrize(("kind", "chat"), [*((kind, "turns") for kind in KINDS), ("xyhwt", "vicuna"), ("internvl", "vicuna"), ("molmo", "vicuna")])
def test_every_answer_is_regions_without_a_problem(kind: str, chat: str) -> None:
    one = answerer(kind, chat)
    for said in ("region", "regions"):
        for answer in asked(one, grammar=said):
            found = regions_in(answer.items)
            assert not answer.problems and found and answer.finish in ("stop", "length"), answer.text
            assert said == "regions" or (kind == "molmo" or len(found) == 1)
            assert one.processor.ended(list(answer.tokens)) == (answer.finish == "stop") and len(answer.tokens) <= 60


def test_published_vocabularies_write_it_too(tmp_path: Path) -> None:
    """Without a space of the tokenizer's own."""
    words = tiny.published(CHAT_FORMATS["turns"], tmp_path)
    assert all(not answer.problems and regions_in(answer.items) for answer in asked(answerer("xyhwt", tokenizer=words)))


@pytest.mark.parametrize("kind", ["xyhwt", "ferret", "molmo"])
def test_little_room_closes_an_answer_and_says_so(kind: str) -> None:
    """No token beyond the limit, no half of a region, and `length` where the model would have gone on."""
    one = answerer(kind)
    least = token_grammar(one.processor, "regions").left(0)
    answers = [answer for room in (least, least + 1, least + 7, least + 15) for answer in asked(one, 8, max_tokens=room)]
    assert all(not answer.problems and regions_in(answer.items) for answer in answers)
    assert {answer.finish for answer in answers} >= {"length"}
    with pytest.raises(Refused, match="model/no-room"):
        asked(one, 1, max_tokens=least - 1)


def test_log_probabilities_stay_those_of_the_model() -> None:
    """Where the grammar leaves one token, a model that was held to it would be sure; this one knows nothing and says so."""
    one = answerer("xyhwt")
    free = asked(one, 1, grammar=None)[0]
    answer = asked(one, 1)[0]
    assert len(answer.logps) == len(answer.tokens) and max(answer.logps) < -0.05 and sum(answer.logps) < sum(free.logps[: len(answer.logps)])
    again = next(one.answer([Request(sample=QUESTION, decoding=Decoding(max_tokens=60, grammar="regions"))]))
    assert (again.tokens, again.logps) == (answer.tokens, answer.logps)


def test_lines_without_a_grammar_are_left_alone() -> None:
    """Beside one that has it, in one batch; and the names of both answers differ."""
    one = answerer("xyhwt")
    requests = [Request(sample=QUESTION, decoding=Decoding(max_tokens=30, grammar=said)) for said in (None, "regions", None)]
    alone = next(one.answer(requests[:1]))
    answers = {one.key(request): answer for request, answer in zip(requests, one.answer(requests), strict=True)}
    assert len(answers) == 2 and answers[one.key(requests[0])].tokens == alone.tokens


def test_nothing_but_what_may_follow_is_left() -> None:
    one = answerer("xyhwt")
    guides = guides_of(one.processor, {1: Decoding(grammar="regions", max_tokens=50)})
    logps = torch.randn(2, one.processor.tokenizer.size).log_softmax(-1)
    before = logps.clone()
    found = guided(logps, [0, 1], guides)
    assert torch.equal(logps, before) and torch.equal(found[0], logps[0])
    kept = found[1] > -torch.inf
    assert set(kept.nonzero()[:, 0].tolist()) == set(guides[1].allowed().tolist()) and torch.equal(found[1, kept], logps[1, kept])


def test_a_model_without_a_codec_has_no_grammar() -> None:
    with pytest.raises(Refused, match="model/no-codec"):
        asked(answerer(None), 1)


@pytest.mark.parametrize("said", [{"temperature": 1e-320}, {"temperature": 5e-39}, {"top_p": 1e-320, "temperature": 2.0}, {"temperature": 1e-9, "top_p": 1e-9}])
def test_the_coldest_draw_is_the_likeliest(said: dict[str, float]) -> None:
    """Numbers that a client may send, and that single precision does not hold."""
    logps = torch.tensor([-3.0, -0.2, -torch.inf, -4.0])
    assert draw(logps, Decoding(**said), torch.Generator().manual_seed(1)) == 1  # pyright: ignore[reportArgumentType]

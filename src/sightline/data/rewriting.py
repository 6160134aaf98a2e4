"""Operators whose texts a model writes: answers in full sentences, conversations and descriptions from captions and boxes, fused, polished and spoken captions, questions about pictures.

    row --ask--> requests --a model--> texts --checks--> taken, or rejected with a reason
                                                                     keep: the row stays as it came, the reason in `attributes["rewrite"]`
                                                                     quarantine: the row is set aside under KIND/REASON

Sources: enrichment of short answers (the post-mortem of a remote-sensing model); conversation, detail, reasoning from captions and boxes (Liu et al. 2023, section 3); fusing (Yu et al. 2024, CapsFusion,
section 3.2); polishing of generated captions (Zhu et al. 2023, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from sightline.data.captioning import Asking
from sightline.data.manners import MANNERS, Asked, Made, captioned, captions_of, retold, said_of
from sightline.data.operators import OPERATOR, Outcome
from sightline.data.preservation import is_chinese
from sightline.data.questions import captions_in
from sightline.data.writing_checks import Written, pair_fault, parsed_pairs, table_of, tells_source, tidy, unfinished, unfit
from sightline.data.writing_prompts import Language, prompt_of
from sightline.samples.exchange import Answer, Decoding, Request
from sightline.samples.sample import Sample, Show

Style = Literal["enrich", "conversation", "detail", "reasoning", "fuse", "polish", "spoken"]
NOTHING = "nothing-known"
"""Reason of rows that hold nothing to write from."""


class Writing(Asking):
    """What operators that write have in common."""

    language: Language | None = None
    """Language of the instructions and of what is written; absent: that of each row."""
    examples: str | None = None
    """Folder of worked examples (NNN_caps.txt and NNN_conv.txt, and maybe system_message.txt) that stand in place of the brought ones."""
    rejected: Literal["keep", "quarantine"] = "keep"
    """What becomes of a row whose texts are all rejected: it stays as it came (fuse: with the caption that a model wrote), or it is set aside."""
    table: str | None = None
    """CSV file of labels that texts are checked by; the table that Sightline brings when absent."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest text; absent: as the style needs."""
    temperature: float = Field(default=0.7, ge=0)
    """0: the likeliest text; above: drawn, with a seed per row."""
    top_p: float = Field(default=0.9, gt=0, le=1)
    """Nucleus from which tokens are drawn."""

    def spoken_in(self, sample: Sample) -> Language:
        """The language of a row."""
        said = "".join([*captions_in(sample), *captions_of(sample), *(sample.text(number) for number in range(len(sample.turns)))])
        return self.language or ("zh" if is_chinese(said) else "en")

    def requested(
        self, sample: Sample, rng: np.random.Generator, style: str, asked: Sequence[dict[str, Any]], tokens: int, shown: bool = False
    ) -> list[Request]:
        """One request for each of `asked` (slots of the prompt), with a seed of its own; `shown`: the first picture is sent too."""
        prompt = prompt_of(style, self.spoken_in(sample), self.examples)
        items = (Show(picture=0),) if shown else ()
        return [
            Request(
                sample=Sample(
                    id=f"{sample.id}#{style}-{number}", pictures=sample.pictures[:1] if shown else (), turns=prompt.turns(*items, **slots), origin=sample.origin
                ),
                decoding=Decoding(max_tokens=self.max_tokens or tokens, temperature=self.temperature, top_p=self.top_p, seed=int(rng.integers(2**31))),
            )
            for number, slots in enumerate(asked)
        ]

    def outcome(self, sample: Sample, style: str, written: Sequence[Written], turns: Made, attributes: dict[str, Any]) -> Outcome:
        """The row with `turns` and `attributes` where a text was taken; else as it came, or set aside. Every text's fate stands in the attribute `rewrite`."""
        kind = type(self).model_fields["kind"].default
        fates = [f"rejected: {one.reason}" if one.reason else style if one.checked else f"{style} (unchecked)" for one in written] or [f"rejected: {NOTHING}"]
        said = {"rewrite": "; ".join(filter(None, [str(sample.attributes.get("rewrite", "")), ",".join(fates)]))}
        if all(one.reason for one in written):
            if self.rejected == "quarantine":
                return Outcome(verdict="quarantined", rule=f"{kind}/{written[0].reason if written else NOTHING}")
            return Outcome(samples=(replace(sample, turns=turns, attributes={**sample.attributes, **said}),))
        origin = replace(sample.origin, parents=(sample.id,), maker=self.maker)
        return Outcome(samples=(replace(sample, turns=turns, attributes={**sample.attributes, **attributes, **said}, origin=origin),))


@OPERATOR.add
class Rewrite(Writing):
    """Texts of a row written anew by a model that sees no picture."""

    kind: Literal["rewrite"] = "rewrite"
    style: Style
    """enrich: each short answer as a sentence that preserves it. conversation, detail, reasoning: a dialogue, a description, a question that takes thought, from captions and boxes.
    fuse: one caption out of a web caption and a written one. polish: captions without repetition and broken sentences. spoken: descriptions as they are said aloud."""

    def ask(self, sample: Sample, rng: np.random.Generator) -> list[Request]:
        """One request per answer (enrich, polish, spoken) or per row; none where nothing is known to write from."""
        manner = MANNERS[self.style]
        return self.requested(sample, rng, self.style, [dict(one.slots) for one in self._asked(sample)], manner.max_tokens)

    def judged(self, sample: Sample, answers: Sequence[Answer]) -> list[Written]:
        """What was written, each text with the reason for which it is rejected."""
        return self._judged(sample, self._asked(sample), answers)

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The row with the texts that were taken; rules rewrite/REASON. `attributes["before"]` keeps the answers that were replaced."""
        asked = self._asked(sample)
        written = self._judged(sample, asked, answers)
        taken = [one for one in written if one.reason is None]
        if asked and asked[0].turn >= 0:
            before = {"before": [one.slots["answer"] for one, text in zip(asked, written, strict=True) if text.reason is None]}
            return self.outcome(sample, self.style, written, retold(sample, asked, written), before)
        if self.style == "fuse" and asked:
            text = taken[0].text if taken else asked[0].slots["synthetic"]
            return self.outcome(sample, self.style, written, captioned(sample, text), {"kind": "caption"})
        pairs = taken[0].pairs if taken else ()
        questions = prompt_of(self.style, self.spoken_in(sample)).questions
        if questions and pairs:
            pairs = ((questions[int(rng.integers(len(questions)))], pairs[0][1]),)
        kinds = {"kind": ",".join([self.style] * len(pairs))}
        return self.outcome(sample, self.style, written, said_of(sample, pairs) if pairs else sample.turns, kinds)

    def _judged(self, sample: Sample, asked: Sequence[Asked], answers: Sequence[Answer]) -> list[Written]:
        manner, table = MANNERS[self.style], table_of(self.table)
        found: list[Written] = []
        for one, answer in zip(asked, answers, strict=True):
            text = tidy(answer.text)
            fault = unfinished(answer)
            found += [Written(text=text, reason=fault)] if fault else manner.judged(sample, one, text, table)
        return found

    def _asked(self, sample: Sample) -> list[Asked]:
        return MANNERS[self.style].asked(sample, self.spoken_in(sample))


@OPERATOR.add
class AskQuestions(Writing):
    """Questions with answers that a model writes while it sees the first picture; each pair is checked against what is annotated there."""

    kind: Literal["ask-questions"] = "ask-questions"
    count: int = Field(default=5, ge=1, le=50)
    """Pairs asked for."""

    def ask(self, sample: Sample, rng: np.random.Generator) -> list[Request]:
        """One request per row; nothing of a row without a picture."""
        return self.requested(sample, rng, "ask", [{"count": self.count}] if sample.pictures else [], 128 * self.count, shown=True)

    def judged(self, sample: Sample, answers: Sequence[Answer]) -> list[Written]:
        """Each pair with the reason for which it is rejected: format, labels (CHAIR above 0), denial, count, source, and those of `unfit`."""
        known = [region for region in sample.annotations if region.picture == 0]
        found: list[Written] = []
        for answer in answers:
            text = tidy(answer.text)
            fault = unfinished(answer)
            pairs = None if fault else parsed_pairs(text)
            found += [self._pair(*pair, known) for pair in pairs or ()] or [Written(text=text, reason=fault or "format")]
        return found

    def _pair(self, question: str, answer: str, known: Sequence[Any]) -> Written:
        source = "source" if tells_source(f"{question}\n{answer}") else None
        reason = unfit(answer) or source or pair_fault(question, answer, known, table_of(self.table))
        return Written(text=f"{question}\n{answer}", reason=reason, pairs=((question, answer),), checked=any(region.label for region in known))

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The row with the pairs that were taken, which stand for themselves; rules ask-questions/REASON."""
        written = self.judged(sample, answers)
        pairs = tuple(dict.fromkeys(pair for one in written if one.reason is None for pair in one.pairs))
        attributes = {"turns": "independent", "kind": ",".join(["ask"] * len(pairs))}
        return self.outcome(sample, "ask", written, said_of(sample, pairs) if pairs else sample.turns, attributes)

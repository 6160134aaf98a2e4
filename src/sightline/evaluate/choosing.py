"""The answerer that chooses: which of given options a model finds most likely after a question, by the log-probabilities of their tokens (Brown et al. 2020, section 2.4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from sightline.errors import Problem, Refused
from sightline.evaluate.scoring_answers import TextScorer
from sightline.lineage import sha256_json
from sightline.samples.exchange import Answer, Request, answer_key
from sightline.samples.sample import Sample, Text, Turn


class Chooser:
    """Answers `choose`: the options are `attributes.options` of a sample that ends with the user's turn. What their prompts share is computed once.

    `by` = mean: the log-probability of a token of the option, so that long options are not at a loss; sum: that of the whole option. The end of an answer counts as a token of it. The answer is the text
    of the best option, the first of equals, with `choice`, its number from 0; `score` is its figure, `vector` those of all options. `tokens` and `logps` are the best one's. Where an option cannot be
    scored, the answer is refused with its problems.
    """

    def __init__(self, scorer: TextScorer, by: Literal["mean", "sum"] = "mean") -> None:
        self.scorer, self.by = scorer, by

    def measure(self, sample: Sample) -> int:
        """Tokens of the prompt and its longest option."""
        return max(self.scorer.measure(asked.sample) for asked in self._options(Request(sample=sample, ask="choose")))

    def key(self, request: Request) -> str:
        """The name under which an answer to this request is found again."""
        pictures = tuple(picture.hash for picture in request.sample.pictures)
        told = sha256_json([self.scorer.key(asked) for asked in self._options(request)])
        return answer_key(self.scorer.weights, told, pictures, {"by": self.by}, "choose")

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Each request once, as soon as its last option is scored."""
        asked = [(request, self._options(request)) for request in requests]
        owners = {option.sample.id: (number, place) for number, (_, options) in enumerate(asked) for place, option in enumerate(options)}
        found: list[dict[int, Answer]] = [{} for _ in asked]
        for scored in self.scorer.answer([option for _, options in asked for option in options]):
            number, place = owners[scored.sample]
            found[number][place] = scored
            request, options = asked[number]
            if len(found[number]) == len(options):
                yield self._chosen(request, [found[number][place] for place in range(len(options))])

    def _options(self, request: Request) -> list[Request]:
        """A request to score each option, under a name that no other has."""
        sample = request.sample
        options = sample.attributes.get("options")
        if not isinstance(options, list | tuple) or len(options) < 2 or not all(isinstance(one, str) and one for one in options):
            place = f"{sample.origin.source}:{sample.origin.row or sample.id}"
            raise Refused(
                Problem(
                    code="evaluate/no-options",
                    place=place,
                    found=f"attributes.options: {options!r}",
                    allowed="two texts or more",
                    fix="give the sample its options, or ask it to write",
                )
            )
        assert sample.turns[-1].role == "user", "what is chosen follows a question"
        turns = [(*sample.turns, Turn(role="assistant", items=(Text(text=str(one)),))) for one in options]
        return [Request(sample=replace(sample, id=f"{id(request)}#{place}", turns=own), ask="score") for place, own in enumerate(turns)]

    def _chosen(self, request: Request, scored: Sequence[Answer]) -> Answer:
        plain = replace(scored[0], key=self.key(request), sample=request.sample.id, seconds=sum(one.seconds for one in scored))
        problems = tuple(problem for one in scored for problem in one.problems)
        if any(one.score is None for one in scored):
            return replace(plain, text="", tokens=(), logps=(), score=None, finish="refused", problems=problems)
        figures = [sum(one.logps) / (len(one.logps) if self.by == "mean" else 1) for one in scored]
        choice = max(range(len(figures)), key=lambda place: figures[place])
        best = scored[choice]
        return replace(plain, text=best.text, tokens=best.tokens, logps=best.logps, choice=choice, score=figures[choice], vector=tuple(figures))

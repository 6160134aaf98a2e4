"""Objectives: what is learnt from a batch. Each states its counts before any forward and returns one differentiable sum per term.

Letters: P pictures, X texts, W tag words, E joint width, A answer tokens (see model/batch.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

from sightline.errors import Problem, Refused
from sightline.kinds import Config, Family
from sightline.model.batch import Batch, SideTexts, empty_pictures, to_device
from sightline.model.packing import Encoded
from sightline.model.processor import Processor
from sightline.model.vlm import Model
from sightline.samples.sample import Sample, Text
from sightline.train.world import ALONE, World


@dataclass(frozen=True, kw_only=True)
class Losses:
    """`sums`: weighted, differentiable, one scalar per term; each is divided once, in the loop, by its global count. `report`: name -> (sum, count)."""

    sums: dict[str, Tensor]
    report: dict[str, tuple[float, float]] = field(default_factory=dict)
    tokens: Tensor | None = None
    """(A,) weighted loss of each answer token of the batch, without gradient, where the objective is a likelihood of answers."""


class Objective(Protocol):
    """What the loop knows of an objective."""

    needs: tuple[str, ...]
    splits: bool
    """True: sums add over micro-batches. False: the loss needs the whole batch in one micro-batch."""

    def prepare(self, samples: Iterable[Sample], processor: Processor) -> None:
        """Look once at what will be trained on. Refused where rows are not of the form that the objective learns from."""
        ...

    def encode(self, sample: Sample, processor: Processor, rng: np.random.Generator) -> Encoded:
        """The host form of one row for this objective."""
        ...

    def counts(self, batch: Batch) -> dict[str, float]:
        """Denominator of each term, known before any forward."""
        ...

    def at(self, step: int, seed: int) -> None:
        """Called before each optimizer step: what is random in a loss is a function of both."""
        ...

    def __call__(self, model: Model, batch: Batch, world: World = ALONE) -> Losses:
        """Forward and losses."""
        ...

    def after_step(self, model: Model) -> None:
        """Called after each optimizer step, for copies that follow the model and for bounds of its tensors."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on besides the model: a tree of tensors, for checkpoints."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint, whose tensors lie on the model's device; a branch of nothing but None is not there."""
        ...


class Steadfast:
    """An objective that is the same function at every step."""

    def at(self, step: int, seed: int) -> None:
        """Nothing in the loss is random."""

    def after_step(self, model: Model) -> None:
        """Nothing follows the model."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing is remembered."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to go on from."""
        assert not state


OBJECTIVE = Family("objective")


def choose_alternative(sample: Sample, rng: np.random.Generator) -> Sample:
    """Each assistant turn with one of its right answers, drawn evenly."""
    if not any(turn.alternatives for turn in sample.turns):
        return sample
    turns = []
    for turn in sample.turns:
        answers = (turn.items, *turn.alternatives)
        turns.append(replace(turn, items=answers[int(rng.integers(len(answers)))], alternatives=()))
    return replace(sample, turns=tuple(turns))


@OBJECTIVE.add
class AnswerLikelihood(Config):
    """Next-token log-likelihood of answers and their end tokens (Liu et al. 2023, section 4.2)."""

    kind: Literal["answer-likelihood"] = "answer-likelihood"
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the squared log-sum-exp (PaLM, section 5)."""

    def build(self) -> AnswerLikelihoodObjective:
        """The objective."""
        return AnswerLikelihoodObjective(self)


@OBJECTIVE.add
class TextLikelihood(Config):
    """The same for rows without pictures; a row with a picture is refused."""

    kind: Literal["text"] = "text"
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the squared log-sum-exp."""

    def build(self) -> TextObjective:
        """The objective."""
        return TextObjective(self)


class AnswerLikelihoodObjective(Steadfast):
    """See AnswerLikelihood."""

    needs: tuple[str, ...] = ("write",)
    splits = True

    def __init__(self, config: AnswerLikelihood | TextLikelihood) -> None:
        self.config = config

    def prepare(self, samples: Iterable[Sample], processor: Processor) -> None:
        """Nothing to prepare."""

    def encode(self, sample: Sample, processor: Processor, rng: np.random.Generator) -> Encoded:
        """One of the right answers, tokenised."""
        return processor.encode(choose_alternative(sample, rng))

    def counts(self, batch: Batch) -> dict[str, float]:
        """Sum of answer weights, for both terms."""
        total = float(batch.weights.sum())
        return {"answer": total, "z": total} if self.config.z_loss else {"answer": total}

    def __call__(self, model: Model, batch: Batch, world: World = ALONE) -> Losses:
        """Terms answer and, where asked for, z."""
        output = model(batch, ask="write")
        assert output.logp is not None and output.lse is not None
        tokens = -(output.logp * batch.weights)
        sums = {"answer": tokens.sum()}
        if self.config.z_loss:
            sums["z"] = self.config.z_loss * (output.lse.square() * batch.weights).sum()
        return Losses(sums=sums, tokens=tokens.detach())


class TextObjective(AnswerLikelihoodObjective):
    """See TextLikelihood."""

    def prepare(self, samples: Iterable[Sample], processor: Processor) -> None:
        """Refused names the rows that have a picture."""
        refuse_rows("text", [sample for sample in samples if sample.pictures], "rows without pictures", "use the objective answer-likelihood")


class Tags(Config):
    """Token-word tag term: every word of a list that a caption names must be seen by at least one picture token, the others by none."""

    words: tuple[Annotated[str, Field(pattern=r"^[a-z]+$")], ...] = ()
    """The words, in the singular: plurals in -s and -es are found with them. Empty = the most frequent ones of the captions."""
    most_frequent: int = Field(default=0, ge=0)
    """How many of the captions' words to take when `words` is empty; very common ones (in over 40 % of captions) are left out."""
    weight: float = Field(default=1.0, gt=0)
    """Weight of the term."""

    @model_validator(mode="after")
    def _some(self) -> Tags:
        if not self.words and not self.most_frequent:
            raise ValueError("give `words`, or how many `most_frequent` ones to take")
        return self


@OBJECTIVE.add
class Contrastive(Config):
    """Picture-text contrast: symmetric InfoNCE (Radford et al. 2021, figure 3) or pairwise sigmoid (Zhai et al. 2023, algorithm 1)."""

    kind: Literal["contrastive"] = "contrastive"
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """softmax = CLIP, sigmoid = SigLIP; the text encoder's `loss` should say the same."""
    tags: Tags | None = None
    """The tag term; needs text_encoder.tags."""

    def build(self) -> ContrastiveObjective:
        """The objective."""
        return ContrastiveObjective(self)


class ContrastiveObjective(Steadfast):
    """See Contrastive."""

    needs: tuple[str, ...] = ("embed",)
    splits = False
    COMMON: ClassVar[float] = 0.4

    def __init__(self, config: Contrastive) -> None:
        self.config = config
        self.words: list[str] = []
        self._tag_texts: SideTexts | None = None
        self._pattern: re.Pattern[str] | None = None
        self._index: dict[str, int] = {}

    def prepare(self, samples: Iterable[Sample], processor: Processor) -> None:
        """Fix the list of tag words. Refused names the rows that are no pair of one picture and its captions."""
        told: list[list[str]] = []
        unpaired = []
        for sample in samples:
            told.append(captions(sample))
            if len(sample.pictures) != 1 or not told[-1]:
                unpaired.append(sample)
        refuse_rows("contrastive", unpaired, "rows of one picture and at least one caption", "use data of captions, such as `then: [{captions: {}}]`")
        if self.config.tags is None:
            return
        self.words = list(self.config.tags.words) or self._frequent(told, self.config.tags.most_frequent)
        assert self.words, "the tag term needs words"
        self._tag_texts = processor.side_texts(self.words, [-1] * len(self.words))
        self._index = {form: number for number, word in enumerate(self.words) for form in (word, f"{word}s", f"{word}es")}
        self._pattern = re.compile(r"[a-z]+")

    def _frequent(self, told: Iterable[list[str]], limit: int) -> list[str]:
        seen: Counter[str] = Counter()
        total = 0
        for caption in (caption for own in told for caption in own):
            seen.update(set(re.findall(r"[a-z]{3,}", caption.lower())))
            total += 1
        rare_enough = [(word, count) for word, count in seen.items() if count <= self.COMMON * total]
        return [word for word, _ in sorted(rare_enough, key=lambda pair: (-pair[1], pair[0]))[:limit]]

    def encode(self, sample: Sample, processor: Processor, rng: np.random.Generator) -> Encoded:
        """The picture and one of its captions, drawn evenly."""
        told = captions(sample)
        text = told[int(rng.integers(len(told)))]
        encoded = processor.encode_pair(sample, text)
        if self._pattern is None:
            return encoded
        # all captions of the picture count: a word that only another caption names is no negative
        named = {self._index[word] for caption in told for word in self._pattern.findall(caption.lower()) if word in self._index}
        return replace(encoded, tags=tuple(sorted(named)))

    def counts(self, batch: Batch) -> dict[str, float]:
        """Pairs; for tags, pictures: one that several pairs show is encoded once."""
        assert batch.texts is not None
        pairs = {"contrastive": float(len(batch.texts.lengths))}
        return {**pairs, "tags": float(len(batch.pictures.tilings))} if self.config.tags else pairs

    def __call__(self, model: Model, batch: Batch, world: World = ALONE) -> Losses:
        """Terms contrastive and, where asked for, tags."""
        assert batch.texts is not None and model.text_encoder is not None
        pairs, picture_of = len(batch.texts.lengths), batch.texts.picture_of
        output = model(batch, ask="embed")
        assert output.pictures is not None and output.texts is not None
        pictures, texts = output.pictures[picture_of], output.texts
        scale = model.text_encoder.scale.exp().clamp(max=100.0)
        # every pair against the pairs of all processes; each process answers for its own rows of the table, and of its transpose
        found = [scale * torch.einsum("pqe,xe->pxq", pictures, world.gather(texts)).amax(-1)]
        found.append(scale * torch.einsum("pqe,xe->xpq", world.gather(pictures), texts).amax(-1) if world.size > 1 else found[0].T)
        own = world.rank * pairs + torch.arange(pairs, device=texts.device)
        report = {"retrieval": (float((found[0].argmax(1) == own).sum()), float(pairs))}
        sums = {"contrastive": self._contrast(found, own, model.text_encoder.bias)}
        if self._tag_texts is not None and self.config.tags is not None:
            assert output.tokens is not None and batch.tags is not None
            # a forward of its own: words are far shorter than captions and would be padded to their length
            words = model(replace(batch, pictures=empty_pictures(), texts=to_device(self._tag_texts, texts.device)), ask="embed").texts
            seen = torch.einsum("pne,we->pnw", output.tokens, words).amax(1)
            logits = seen * model.text_encoder.tag_scale.exp() + model.text_encoder.tag_bias
            sums["tags"] = self.config.tags.weight * binary_cross_entropy_with_logits(logits, batch.tags.to(logits.dtype), reduction="sum") / len(self.words)
        return Losses(sums=sums, report=report)

    def _contrast(self, scores: Sequence[Tensor], own: Tensor, bias: Tensor | None) -> Tensor:
        """Of (X, N) scores of this process's pictures against all texts, and of its texts against all pictures; pair x of them is number `own[x]` of all."""
        if self.config.loss == "softmax":
            return torch.stack([cross_entropy(side, own, reduction="sum") for side in scores]).sum() / 2
        signs = 2 * torch.nn.functional.one_hot(own, scores[0].shape[1]).to(scores[0].dtype) - 1
        return -logsigmoid(signs * (scores[0] + (bias if bias is not None else 0.0))).sum()


def captions(sample: Sample) -> list[str]:
    """All right answers of a sample's assistant turns, as text."""
    found: list[str] = []
    for turn in sample.turns:
        if turn.role == "assistant":
            found += ["".join(item.text for item in items if isinstance(item, Text)) for items in (turn.items, *turn.alternatives)]
    return found


def refuse_rows(objective: str, rows: list[Sample], allowed: str, fix: str) -> None:
    """Refused with the number of `rows` and the first of them, where there are any."""
    if rows:
        first = ", ".join(f"{sample.origin.source}:{sample.id}" for sample in rows[:16])
        raise Refused(Problem(code="train/wrong-rows", place=f"objective {objective}", found=f"{len(rows)} other rows: {first}", allowed=allowed, fix=fix))

"""Pictures and texts compared, matched and told: the three losses of BLIP (https://arxiv.org/abs/2201.12086, section 3.2) and of BLIP-2's first stage.

Letters: X pairs of a picture and a text, N pairs that they are compared with (their own, then the queue), Q vectors per picture, E joint width, Y pairs to match.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import cross_entropy

from sightline.kinds import Config
from sightline.model.batch import Batch, Given, Output
from sightline.model.packing import Encoded
from sightline.model.processor import Processor
from sightline.model.vlm import Model
from sightline.samples.sample import Sample
from sightline.train.objectives import OBJECTIVE, Losses, captions, refuse_rows
from sightline.train.world import ALONE, World

_DRAWS = 2
"""Marks the random stream of negatives; rows and captions have others."""


@OBJECTIVE.add
class PictureText(Config):
    """Contrastive, matching and telling losses of pairs of a picture and a caption.

    As it stands it is BLIP-2's first stage with `contrastive_smoothing: 0.1`. BLIP adds `momentum: 0.995`, `queue: 57600`, `alpha: 0.4` and a ramp of two epochs.
    """

    kind: Literal["picture-text"] = "picture-text"
    contrastive: float = Field(default=1.0, gt=0)
    """Weight of the contrastive term."""
    match: float = Field(default=1.0, ge=0)
    """Weight of the matching term; 0 leaves it out."""
    tell: float = Field(default=1.0, ge=0)
    """Weight of the telling term; 0 leaves it out."""
    temperature: tuple[float, float] = (0.001, 0.5)
    """Bounds of the learnt temperature, 1 / scale."""
    contrastive_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the contrastive target that is spread over all pairs."""
    tell_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of the told token's target that is spread over the vocabulary."""
    momentum: float | None = Field(default=None, gt=0, lt=1)
    """Compare with a copy of the model that follows it at this rate: copy = momentum * copy + (1 - momentum) * model after each step. None = with the batch itself."""
    queue: int = Field(default=0, ge=0)
    """Pairs of earlier steps, as the copy saw them, that the batch is compared with too."""
    alpha: float = Field(default=0.0, ge=0, le=1)
    """Share of the contrastive target that the copy's own similarities make."""
    ramp_steps: int = Field(default=0, ge=0)
    """Steps over which `alpha` grows from 0."""
    same_text: Literal["positive", "negative"] = "positive"
    """What a pair with an equal text is. Pairs of the same picture or the same row are never negatives."""

    @model_validator(mode="after")
    def _fits(self) -> PictureText:
        if self.momentum is None and (self.queue or self.alpha):
            raise ValueError("queue and alpha need momentum: they are what the copy saw")
        if not 0 < self.temperature[0] < self.temperature[1]:
            raise ValueError("temperature is a lower and an upper bound, both above 0")
        return self

    def build(self) -> PictureTextObjective:
        """The objective."""
        return PictureTextObjective(self)


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """Vectors of pairs, and keys that tell which show the same row (column 0) or say the same (column 1)."""

    pictures: Tensor  # (N, Q, E)
    texts: Tensor  # (N, E)
    keys: Tensor  # (N, 2) int64

    def then(self, later: _Seen | None) -> _Seen:
        """These pairs, and others behind them."""
        if later is None:
            return self
        return _Seen(pictures=torch.cat([self.pictures, later.pictures]), texts=torch.cat([self.texts, later.texts]), keys=torch.cat([self.keys, later.keys]))

    def first_of(self, world: World) -> _Seen:
        """These pairs, and behind them those of the other processes."""
        if world.size == 1:
            return self
        count, rank = len(self.keys), world.rank
        whole = [world.gather(part) for part in (self.pictures, self.texts, self.keys)]
        pictures, texts, keys = (torch.cat([part[rank * count : (rank + 1) * count], part[: rank * count], part[(rank + 1) * count :]]) for part in whole)
        return _Seen(pictures=pictures, texts=texts, keys=keys)

    def newest(self, most: int) -> _Seen:
        """The first `most`."""
        return _Seen(pictures=self.pictures[:most], texts=self.texts[:most], keys=self.keys[:most])


class PictureTextObjective:
    """See PictureText. The loop calls `at` before a step and `after_step` behind it; copy and queue are part of its state, never of a model directory."""

    splits = False

    def __init__(self, config: PictureText) -> None:
        self.config = config
        self.needs: tuple[str, ...] = ("embed", *(name for name in ("match", "tell") if getattr(config, name)))
        self._step, self._seed = 0, 0
        self._copy: Any = None
        self._queue: _Seen | None = None
        self._restored: dict[str, Tensor] | None = None

    def prepare(self, samples: Iterable[Sample], processor: Processor) -> None:
        """Refused names the rows that are no pair of one picture and its captions."""
        unpaired = [sample for sample in samples if len(sample.pictures) != 1 or not captions(sample)]
        refuse_rows("picture-text", unpaired, "rows of one picture and at least one caption", "use data of captions, such as `then: [{captions: {}}]`")

    def encode(self, sample: Sample, processor: Processor, rng: np.random.Generator) -> Encoded:
        """The picture and one of its captions, drawn evenly."""
        told = captions(sample)
        return processor.encode_pair(sample, told[int(rng.integers(len(told)))])

    def counts(self, batch: Batch) -> dict[str, float]:
        """Pairs; for matching, pairs and the negatives that can be drawn for them (3 x pairs unless a pair has none); for telling, tokens behind the first."""
        assert batch.texts is not None
        total = len(batch.texts.lengths)
        found = {"contrastive": float(total)}
        if self.config.match:
            keys = pair_keys(batch)
            found["match"] = float(total + sum(int((~right).any(1).sum()) for right in self._right(batch, keys, keys)))
        if self.config.tell:
            found["tell"] = float((batch.texts.lengths - 1).sum())
        return found

    def at(self, step: int, seed: int) -> None:
        """Where the run is: negatives are a function of (seed, step), and alpha of the step."""
        self._step, self._seed = step, seed

    def __call__(self, model: Model, batch: Batch, world: World = ALONE) -> Losses:
        """Terms contrastive and, where they have a weight, match and tell. Encoders run once."""
        assert batch.texts is not None
        output = model(batch, ask="embed")
        assert output.features is not None
        own = _pairs(output, batch, pair_keys(batch))
        past = self._past(model, batch, own.keys)
        # contrast is with the pairs of all processes, this one's first; matching draws its negatives among its own, as BLIP does
        everyone = (own if past is None else past).first_of(world)
        others = everyone if past is None else everyone.then(self._queue)
        right = self._right(batch, own.keys, others.keys)
        scale = model.texts.scale.exp()
        scores = [scale * similarity(own.pictures, others.texts), scale * similarity(others.pictures, own.texts).T]
        apart = [-(found.log_softmax(1) * target).sum() for found, target in zip(scores, self._targets(right, scale.detach(), past, others))]
        sums = {"contrastive": self.config.contrastive * torch.stack(apart).mean()}
        if past is not None and self.config.queue:
            self._queue = others.newest(self.config.queue)
        pairs = len(own.keys)
        found = scores[0][:, :pairs].argmax(1, keepdim=True)
        report = {"retrieval": (float(right[0].gather(1, found).sum()), float(pairs))}
        if self.config.match:
            chosen, labels = self._choose(batch, scores, right)
            logits = model(batch, ask="match", given=Given(features=output.features, texts=batch.texts, pairs=chosen)).match
            sums["match"] = self.config.match * cross_entropy(logits, labels, reduction="sum")
            report["matching"] = (float((logits.argmax(1) == labels).sum()), float(len(labels)))
        if self.config.tell:
            told = model(batch, ask="tell", given=Given(features=output.features, texts=batch.texts, pairs=_pairing(batch.texts.picture_of)))
            even = self.config.tell_smoothing
            sums["tell"] = self.config.tell * -((1 - even) * told.logp + even * told.mean_logp).sum()
        return Losses(sums=sums, report=report)

    def _right(self, batch: Batch, own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """(X, N) bool twice, from keys (X, 2) and (N, 2), the first X of them the batch's own: which texts a picture goes with, and which pictures a text.

        A picture goes with the texts that any pair of the batch gives it, and with texts equal to those.
        """
        assert batch.texts is not None
        pairs = len(own)
        shown = own[:, None, 0] == others[None, :, 0]
        shown[:, :pairs] |= batch.texts.picture_of[:, None] == batch.texts.picture_of
        said = own[:, None, 1] == others[None, :, 1]
        if self.config.same_text == "negative":
            said = torch.eye(*said.shape, dtype=torch.bool, device=said.device)
        return shown | (shown[:, :pairs].float() @ said.float() > 0), said | (said[:, :pairs].float() @ shown.float() > 0)

    def _targets(self, right: tuple[Tensor, Tensor], scale: Tensor, past: _Seen | None, others: _Seen) -> list[Tensor]:
        """(X, N) target of each picture and of each text: even over what is right, smoothed, and mixed with what the copy finds similar."""
        smooth = self.config.contrastive_smoothing
        targets = [(1 - smooth) * (own / own.sum(1, keepdim=True)) + smooth / own.shape[1] for own in right]
        ramp = min(1.0, self._step / self.config.ramp_steps) if self.config.ramp_steps else 1.0
        alpha = self.config.alpha * ramp
        if past is None or not alpha:
            return targets
        soft = [similarity(past.pictures, others.texts), similarity(others.pictures, past.texts).T]
        return [alpha * (scale * found).softmax(1) + (1 - alpha) * target for found, target in zip(soft, targets)]

    def _choose(self, batch: Batch, scores: list[Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Pairs (Y, 2) of a picture and a text, and labels (Y,): every pair, then a text for each picture and a picture for each text that it does not go with.

        Negatives are drawn by the softmax of similarity among what is wrong: argmax(score + Gumbel noise). Where nothing is wrong none is drawn.
        """
        assert batch.texts is not None
        pairs, device = _pairing(batch.texts.picture_of), batch.texts.picture_of.device
        noise = np.random.default_rng([self._seed, self._step, _DRAWS]).gumbel(size=(2, len(pairs), len(pairs)))
        chosen = [pairs]
        for side, (found, goes, by) in enumerate(zip(scores, right, torch.from_numpy(noise).float().to(device))):
            own = goes[:, : len(pairs)]
            drawn = (found[:, : len(pairs)].detach() + by).masked_fill(own, -math.inf).argmax(1)
            wrong = [pairs[:, 0], drawn] if side == 0 else [pairs[drawn, 0], pairs[:, 1]]
            chosen.append(torch.stack(wrong, 1)[~own.all(1)])
        labels = torch.zeros(sum(len(some) for some in chosen), dtype=torch.int64, device=device)
        labels[: len(pairs)] = 1
        return torch.cat(chosen), labels

    # the copy that follows the model

    @torch.no_grad()
    def _past(self, model: Model, batch: Batch, keys: Tensor) -> _Seen | None:
        """The batch as the copy sees it; the copy is made at the first step."""
        if self.config.momentum is None:
            return None
        if self._copy is None:
            self._copy = copy.deepcopy(model).eval()
            if self._restored is not None:
                unknown = self._copy.load_state_dict(self._restored, strict=False).unexpected_keys
                assert not unknown, unknown
                self._restored = None
        return _pairs(self._copy(batch, ask="embed"), batch, keys)

    @torch.no_grad()
    def after_step(self, model: Model) -> None:
        """Keep the temperature in its bounds, and let the copy follow."""
        low, high = self.config.temperature
        if model.texts.scale.requires_grad:
            model.texts.scale.clamp_(-math.log(high), -math.log(low))
        if self._copy is None or self.config.momentum is None:
            return
        for follower, leader in zip(self._copy.parameters(), model.parameters()):
            follower.lerp_(leader, 1 - self.config.momentum)
        for follower, leader in zip(self._copy.buffers(), model.buffers()):
            follower.copy_(leader)

    def state_dict(self) -> dict[str, Any]:
        """What of the copy follows the model (what is frozen is the model's own), and pairs of the queue, for checkpoints."""
        queue = self._queue and {"pictures": self._queue.pictures, "texts": self._queue.texts, "keys": self._queue.keys}
        if self._copy is None:
            return {"copy": self._restored, "queue": queue}
        frozen = {name for name, p in self._copy.named_parameters(remove_duplicate=False) if not p.requires_grad}
        return {"copy": {name: tensor for name, tensor in self._copy.state_dict().items() if name not in frozen}, "queue": queue}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint, whose tensors lie on the model's device."""
        self._copy, self._restored = None, state.get("copy")
        self._queue = _Seen(**queue) if (queue := state.get("queue")) is not None else None


def similarity(pictures: Tensor, texts: Tensor) -> Tensor:
    """(A, B) cosine of pictures (A, Q, E) and texts (B, E), the best of the Q vectors; in float32, since the scale multiplies what rounding loses."""
    with torch.autocast(pictures.device.type, enabled=False):
        return torch.einsum("aqe,be->abq", pictures, texts).amax(-1)


def pair_keys(batch: Batch) -> Tensor:
    """(X, 2) int64: keys of the row and of the text of each pair, equal for equal ones in every batch and every run."""
    assert batch.texts is not None and len(batch.rows) == len(batch.texts.lengths), "each row is one pair"
    told = [tuple(ids[:length]) for ids, length in zip(batch.texts.ids.tolist(), batch.texts.lengths.tolist())]
    return torch.tensor([(_key(row[:2]), _key(ids)) for row, ids in zip(batch.rows, told)], device=batch.texts.ids.device)


def _key(value: tuple[str | int, ...]) -> int:
    return int.from_bytes(hashlib.sha256(repr(value).encode()).digest()[:8], "little", signed=True)


def _pairs(output: Output, batch: Batch, keys: Tensor) -> _Seen:
    assert output.pictures is not None and output.texts is not None and batch.texts is not None
    return _Seen(pictures=output.pictures[batch.texts.picture_of], texts=output.texts, keys=keys)


def _pairing(picture_of: Tensor) -> Tensor:
    """(X, 2): each text with its own picture."""
    return torch.stack([picture_of, torch.arange(len(picture_of), device=picture_of.device)], 1)

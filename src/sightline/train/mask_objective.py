"""The objective of answers whose tokens are masks: words, and the pixels that a head draws from the hidden states behind them (LISA, https://arxiv.org/abs/2308.00692, section 3.2)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from sightline.kinds import Config
from sightline.model.batch import Batch, MaskTaps
from sightline.model.vlm import Model
from sightline.train.objectives import AnswerLikelihoodObjective, Losses
from sightline.train.world import ALONE, World

_SCALE, _SMALL = 1000.0, 1e-6
"""Sums of the Dice loss are divided by the one, and the other is added above and below the line, as released."""
_NO_MASK = 1e-8
"""Added to the number of masks, as released: a step without any learns words alone."""


class MaskLikelihood(Config):
    """Log-likelihood of answers, and of each mask that they name the cross-entropy of its pixels and the Dice loss. Rows without masks, and without pictures, learn their words."""

    kind: Literal["mask"] = "mask"
    text: float = Field(default=1.0, gt=0)
    """Weight of the words."""
    bce: float = Field(default=2.0, ge=0)
    """Weight of the binary cross-entropy, a mask's mean over the pixels that show picture."""
    dice: float = Field(default=0.5, ge=0)
    """Weight of the Dice loss (Milletari et al. 2016, with plain sums below the line), a number for each mask."""
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the squared log-sum-exp (PaLM, section 5)."""

    def build(self) -> MaskLikelihoodObjective:
        """The objective."""
        return MaskLikelihoodObjective(self)


class MaskLikelihoodObjective(AnswerLikelihoodObjective):
    """See MaskLikelihood."""

    needs: tuple[str, ...] = ("write", "mask")

    def __init__(self, config: MaskLikelihood) -> None:
        self.config: MaskLikelihood = config

    def counts(self, batch: Batch) -> dict[str, float]:
        """Sum of answer weights; masks."""
        masks = (len(batch.masks.answers) if batch.masks is not None else 0) + _NO_MASK
        return {**super().counts(batch), "bce": masks, "dice": masks}

    def __call__(self, model: Model, batch: Batch, world: World = ALONE) -> Losses:
        """Terms answer, bce, dice and, where asked for, z; report `iou`, mean over masks of the overlap at a threshold of one half."""
        output = model(batch, ask="mask")
        assert output.logp is not None and output.lse is not None
        tokens = -(output.logp * batch.weights)
        sums = {"answer": self.config.text * tokens.sum()}
        if self.config.z_loss:
            sums["z"] = self.config.z_loss * (output.lse.square() * batch.weights).sum()
        if output.masks is None or batch.masks is None:
            none = tokens.new_zeros(())
            return Losses(sums={**sums, "bce": none, "dice": none}, tokens=tokens.detach())
        bce, dice, iou = mask_losses(output.masks, batch.masks)
        sums |= {"bce": self.config.bce * bce.sum(), "dice": self.config.dice * dice.sum()}
        return Losses(sums=sums, report={"iou": (float(iou.sum()), float(len(iou)))}, tokens=tokens.detach())


def mask_losses(logits: Tensor, asked: MaskTaps) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy, Dice loss and overlap of each mask, (G,) each, from logits (G, s, s); what is no picture counts nowhere."""
    assert asked.targets is not None, "masks to learn have targets"
    x, target = logits.float().flatten(1), asked.targets.flatten(1)
    share = asked.share[asked.views].flatten(1)
    bce = (binary_cross_entropy_with_logits(x, target, reduction="none") * share).sum(1) / share.sum(1)
    drawn = x.sigmoid() * share
    both, either = (drawn * target / _SCALE).sum(1), (drawn / _SCALE).sum(1) + (target / _SCALE).sum(1)
    dice = 1 - (2 * both + _SMALL) / (either + _SMALL)
    found, true = (x.detach() > 0) & (share > 0), target > 0.5
    iou = (found & true).sum(1) / (found | true).sum(1).clamp(min=1)
    return bce, dice, iou

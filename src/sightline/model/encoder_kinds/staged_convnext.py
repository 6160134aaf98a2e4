"""A convolutional tower whose maps of several stages are joined (Mini-Gemini, https://arxiv.org/abs/2403.18814, section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import field_validator

from sightline.errors import Problem, Refused
from sightline.model.encoder_kinds.towers import PublishedTower

if TYPE_CHECKING:
    from sightline.model.encoder_kinds.staged_convnext_modules import StagedConvNextTower


class StagedConvNextEncoder(PublishedTower):
    """ConvNeXt without its final norm. Maps of later stages are upsampled bilinearly to the size of the first one that is read, and joined on the channels."""

    MODEL_TYPE: ClassVar[str] = "convnext"
    SETTINGS: ClassVar[tuple[str, ...]] = ("hidden_sizes", "depths", "patch_size")

    kind: Literal["staged-convnext"] = "staged-convnext"
    stages: tuple[int, ...] = (0, 1, 2, 3)
    """Stages to read, ascending, counted from 0; the first gives the grid: the side in px / 4 for stage 0, half of it for each later one."""

    @field_validator("stages")
    @classmethod
    def _ascending(cls, stages: tuple[int, ...]) -> tuple[int, ...]:
        if not stages or stages[0] < 0 or list(stages) != sorted(set(stages)):
            raise ValueError("ascending numbers from 0, at least one")
        return stages

    @property
    def least(self) -> int:
        """One place of the last stage."""
        block = self.block()
        return block["patch_size"] * 2 ** (len(block["depths"]) - 1)

    def places(self, width: int, height: int) -> tuple[int, int]:
        """Size of the first map that is read. Raises Refused where a crop is smaller than one place of the last stage: model/crop-size."""
        if min(width, height) < self.least:
            raise Refused(
                Problem(
                    code="model/crop-size",
                    place=self.path,
                    found=f"crops of {width}x{height} px",
                    allowed=f"sides of at least {self.least} px: its strides",
                    fix="choose a tiler of larger crops",
                )
            )
        stride = self.block()["patch_size"] * 2 ** self.stages[0]
        return width // stride, height // stride

    def channels(self, consumer: str = "connector") -> int:
        """C: channels of all stages that are read."""
        return sum(self.block()["hidden_sizes"][stage] for stage in self.stages)

    def resolve(self) -> Self:
        """As for every published tower. Raises Refused for stages that the tower lacks: model/layer-not-read."""
        count = len(self.block()["depths"])
        if self.stages[-1] >= count:
            raise Refused(
                Problem(
                    code="model/layer-not-read",
                    place=self.path,
                    found=f"stages {list(self.stages)}",
                    allowed=f"0 to {count - 1}",
                    fix=f"stages: {[stage for stage in self.stages if stage < count]}",
                )
            )
        return super().resolve()

    def twin(self, side: int | None = None) -> Self:
        """As many stages of one block each, of 8 and then 16 channels. Strides stay, so the grid stays a quarter of the side."""
        count = len(self.block()["depths"])
        return self._toy(num_stages=count, depths=[1] * count, hidden_sizes=[8] + [16] * (count - 1))

    def build(self) -> StagedConvNextTower:
        """The module; random weights, or the checkpoint's where it is at hand."""
        from sightline.model.encoder_kinds.staged_convnext_modules import StagedConvNextTower

        return StagedConvNextTower(self)

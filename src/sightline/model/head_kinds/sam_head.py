"""The mask head of LISA: SAM, prompted with the projected tap instead of a box or a point. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sightline.errors import Problem, Refused
from sightline.kinds import Config
from sightline.model import hub_layout
from sightline.model.heads import Encoders
from sightline.samples.bands import COLOURS

if TYPE_CHECKING:
    from sightline.model.head_kinds.sam_head_modules import SamMaskHead

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SETTINGS = {"vision_config": ("image_size", "patch_size"), "prompt_encoder_config": ("image_size", "patch_size"), "mask_decoder_config": ("hidden_size",)}
"""Parts of a published config, and the keys that the geometry is made from."""
_UPSCALED = 4
"""Places of a mask along one patch of the picture."""
_TOY: dict[str, dict[str, Any]] = {
    "vision_config": {
        "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8, "mlp_ratio": 2.0, "mlp_dim": 64,
        "window_size": 2, "global_attn_indexes": [1], "num_pos_feats": 8, "initializer_range": 0.09,
    },
    "prompt_encoder_config": {"hidden_size": 16, "image_size": 32, "patch_size": 8, "mask_input_channels": 8, "image_embedding_size": 4},
    "mask_decoder_config": {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
}  # fmt: skip
"""Sizes of a twin."""
_SPREAD = 0.3
"""Standard deviation of its random weights: narrow attention learns nothing from the 0.02 of wide layers."""


class SamHead(Config):
    """SAM's image encoder and mask decoder (Kirillov et al. 2023); the tap, projected as in LISA (section 3.2), is the decoder's only sparse prompt, and no mask its dense one.

    Parts: `heads.mask.projection`, `heads.mask.decoder` and `heads.mask.encoder`, which LISA leaves frozen.
    """

    kind: Literal["sam"] = "sam"
    checkpoint: str | None = None
    """Folder or cached hub name in the Hugging Face layout; None = random weights from `config`."""
    config: dict[str, Any] | None = None
    """The published config with vision_config, prompt_encoder_config and mask_decoder_config; needed without a checkpoint. Settings left out are those of transformers: SAM ViT-B."""
    mean: tuple[float, float, float] | None = None
    """Per band, 0..1; None = the checkpoint's, else ImageNet's."""
    std: tuple[float, float, float] | None = None
    """Per band, 0..1; likewise."""

    def block(self) -> dict[str, Any]:
        """The published config as plain data, with each of its parts. Refused: another model type."""
        block = hub_layout.config_block(self.checkpoint, self.config, "heads.mask")
        if block["model_type"] != "sam":
            fix = "name a checkpoint of SAM, or state its config"
            raise Refused(Problem(code="model/unknown-head", place="heads.mask", found=repr(block["model_type"]), allowed="'sam'", fix=fix))
        if all(key in (block.get(part) or {}) for part, keys in _SETTINGS.items() for key in keys):
            return block
        whole = hub_layout.transformers_config(block, "heads.mask").to_dict()
        return block | {part: whole[part] for part in _SETTINGS}

    @property
    def side(self) -> int:
        """See MaskHead."""
        return self.block()["vision_config"]["image_size"]

    @property
    def stride(self) -> int:
        """See MaskHead."""
        return self.block()["vision_config"]["patch_size"] // _UPSCALED

    def bands(self, encoders: Encoders) -> tuple[str, ...]:
        """Red, green and blue."""
        return COLOURS

    def fill(self, encoders: Encoders) -> tuple[float, ...]:
        """See MaskHead."""
        return self.mean or (0.0, 0.0, 0.0)

    def tokens(self, encoders: Encoders) -> int:
        """See MaskHead."""
        vision = self.block()["vision_config"]
        return (vision["image_size"] // vision["patch_size"]) ** 2

    def faults(self, encoders: Encoders) -> list[str]:
        """It looks through none of them."""
        return []

    def resolve(self, encoders: Encoders) -> SamHead:
        """See MaskHead."""
        folder = hub_layout.find(self.checkpoint) if self.checkpoint else None
        said = hub_layout.read_json(folder / "preprocessor_config.json") if folder and (folder / "preprocessor_config.json").is_file() else {}
        mean, std = self.mean or tuple(said.get("image_mean", _MEAN)), self.std or tuple(said.get("image_std", _STD))
        return self.model_copy(update={"config": self.block(), "mean": mean, "std": std})

    def weightless(self) -> SamHead:
        """See MaskHead."""
        return self.model_copy(update={"checkpoint": None})

    def twin(self) -> SamHead:
        """See MaskHead."""
        block = self.block()
        toy = {part: {**block[part], **sizes} for part, sizes in _TOY.items()}
        return self.model_copy(update={"checkpoint": None, "config": {**block, **toy, "initializer_range": _SPREAD}})

    def build(self, width: int, encoders: Encoders) -> SamMaskHead:
        """See MaskHead."""
        from sightline.model.head_kinds.sam_head_modules import SamMaskHead

        return SamMaskHead(self, width)

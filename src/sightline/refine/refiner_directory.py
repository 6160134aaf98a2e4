"""The directory of a refiner: config.json and one safetensors file per part. What it is stands in its config; a folder of a published segmenter is opened by the same door."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sightline.errors import Problem, Refused
from sightline.lineage import sha256_json, write_json
from sightline.model import hub_layout
from sightline.model.directory import tensor_digest
from sightline.refine.crop_decoder import CropDecoder

if TYPE_CHECKING:
    from sightline.refine.box_masks import Refiner
    from sightline.refine.crop_decoder_modules import CropSegmenter

MODEL_TYPE, FORMAT = "sightline_refiner", 1


def weights_of(model: CropSegmenter) -> str:
    """Content id of config and weights."""
    digests = {f"{path}.{name}": tensor_digest(tensor) for path, part in model.parts().items() for name, tensor in sorted(part.state_dict().items())}
    return sha256_json([_config(model.config), digests])


def _config(config: CropDecoder) -> dict[str, Any]:
    """As saved: the weights stand beside it, so the encoder's checkpoint is not looked for again."""
    record = config.model_dump(mode="json")
    return {**record, "encoder": {**record["encoder"], "checkpoint": None}}


def save_refiner(folder: Path, model: CropSegmenter) -> str:
    """Write config and weights into an existing folder (use `lineage.artifact`); returns the weights id."""
    for path, part in model.parts().items():
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in part.state_dict().items()}, folder / f"{path}.safetensors", metadata={"format": "pt"}
        )
    write_json(folder / "config.json", {"model_type": MODEL_TYPE, "format": FORMAT, "refiner": _config(model.config)})
    return weights_of(model)


def load_segmenter(folder: Path) -> CropSegmenter:
    """The model of a refiner's directory, ready to predict. Refused lists what is missing or does not fit."""
    head = hub_layout.read_json(folder / "config.json")
    if head.get("format") != FORMAT:
        found, fix = f"format {head.get('format')!r}", "train it again, or use the version that wrote it"
        raise Refused(Problem(code="refine/format", place=str(folder), found=found, allowed=f"format {FORMAT}", fix=fix))
    try:
        model = CropDecoder.model_validate_json(json.dumps(head["refiner"])).build()
        for path, part in model.parts().items():
            part.load_state_dict(load_file(folder / f"{path}.safetensors"))
    except (ValidationError, KeyError, OSError, RuntimeError, SafetensorError) as error:
        found = " ".join(str(error).split())[:600]
        raise Refused(
            Problem(
                code="refine/broken-refiner", place=str(folder), found=found, allowed="the config and the weights of one refiner", fix="copy the folder again"
            )
        ) from None
    return model.eval()


def refiner_folder(path: Path) -> Path:
    """The folder with the config: of a training run its `model`, else the folder itself. Refused where there is none."""
    for folder in (path / "model", path):
        if (folder / "config.json").is_file():
            return folder
    allowed, fix = "a run of `sightline refine train`, a refiner, or a published segmenter (sam, seggpt)", "correct the path"
    raise Refused(Problem(code="refine/no-refiner", place=str(path), found="no config.json in it, nor in its folder model", allowed=allowed, fix=fix))


def open_refiner(path: Path, device: torch.device | str = "cpu") -> Refiner:
    """The refiner of a folder, by the `model_type` of its config. Refused: another type."""
    folder = refiner_folder(path)
    kind = hub_layout.read_json(folder / "config.json").get("model_type")
    if kind == MODEL_TYPE:
        from sightline.refine.crop_refiner import CropRefiner

        return CropRefiner(load_segmenter(folder).to(device))
    from sightline.refine.published_segmenters import PUBLISHED

    if kind not in PUBLISHED:
        allowed = ", ".join([MODEL_TYPE, *PUBLISHED])
        raise Refused(Problem(code="refine/no-refiner", place=str(folder), found=f"model_type {kind!r}", allowed=allowed, fix="give the folder of a refiner"))
    return PUBLISHED[kind](folder, device)

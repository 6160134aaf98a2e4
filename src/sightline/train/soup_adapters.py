"""Low-rank adapters that are merged while the weights they belong to are read: W + alpha / rank * BA (Hu et al. 2021). The mean of merged weights is not the merged mean of factors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from sightline.errors import Problem, Refused
from sightline.lineage import sha256_tree
from sightline.model import hub_layout
from sightline.train.tensor_files import Slot


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Factors by the full name of the weight they are added to."""

    factors: Mapping[str, tuple[np.ndarray, np.ndarray]]
    """(scale * B of shape (out, rank), A of shape (rank, in)), float32."""
    id: str
    """Hash of its files."""

    def added(self, name: str, shape: tuple[int, ...], first: int, values: np.ndarray) -> np.ndarray:
        """`values`, numbers of the weight from `first` on in its rows' order, with the product added in float32."""
        if name not in self.factors:
            return values
        left, right = self.factors[name]
        width = shape[1]
        top, bottom = first // width, -(-(first + len(values)) // width)
        product = (left[top:bottom] @ right).reshape(-1)
        return values.astype(np.float32) + product[first - top * width :][: len(values)]


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters as a stage leaves them: PART.safetensors beside PART.json, and no config.json."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return bool(files) and not (folder / "config.json").exists() and all(file.with_suffix(".json").is_file() for file in files)


def read_adapter(folder: Path, slots: Mapping[str, Slot]) -> Adapter:
    """The adapters of a folder, to be merged onto a model with these tensors. Refused where one does not fit, or is more than W + scale * BA of the base's own weights: rows that are scaled (DoRA), weights
    that were rounded beneath it, alphas of single layers, whose patterns speak of blocks that the folder does not name.
    """
    factors: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    problems: list[Problem] = []
    for file in sorted(folder.glob("*.safetensors")):
        said = hub_layout.read_json(file.with_suffix(".json"))
        try:
            tensors = load_file(file)
        except (SafetensorError, OSError, TypeError) as error:
            raise Refused(
                Problem(code="model/broken-weights", place=str(file), found=str(error), allowed="a whole safetensors file", fix="copy it again")
            ) from None
        if more := _more_than_factors(said, tensors):
            allowed, fix = "plain low-rank adapters", "give the model folder that the stage left: its weights have the adapter merged"
            problems += [Problem(code=f"train/adapter-{code}", place=str(file), found=found, allowed=allowed, fix=fix) for code, found in more.items()]
            continue
        for name, right in tensors.items():
            if not name.endswith(".lora_A.weight"):
                continue
            layer = name.removesuffix(".lora_A.weight")
            left, weight = tensors.get(f"{layer}.lora_B.weight"), f"{file.stem}.{layer}.weight"
            if left is None or weight not in slots or slots[weight].shape != (left.shape[0], right.shape[1]):
                found = f"factors of shape {None if left is None else left.shape} and {right.shape}"
                there = f"a weight of shape {slots[weight].shape}" if weight in slots else "no such weight"
                problems.append(
                    Problem(code="train/adapter-misfit", place=f"{file}:{layer}", found=found, allowed=there, fix="name the base it was trained on")
                )
                continue
            rank = right.shape[0]  # a layer may have another one than the part
            scale = np.float32(float(said["alpha"]) / (rank**0.5 if said.get("rank_stabilized") else rank))
            factors[weight] = (left.astype(np.float32) * scale, right.astype(np.float32))
    if problems:
        raise Refused(problems)
    return Adapter(factors=factors, id=sha256_tree(folder))


def _more_than_factors(said: Mapping[str, Any], tensors: Iterable[str]) -> dict[str, str]:
    """What keeps an adapter from being merged onto a base by its factors alone: code -> what was found."""
    found = {}
    if said.get("dora") or any(".lora_magnitude_vector" in name for name in tensors):
        found["dora"] = "magnitudes of rows (DoRA)"
    if said.get("quantize"):
        found["rounded"] = f"an adapter of weights that were rounded as {said['quantize']}"
    if said.get("alphas"):
        found["alphas"] = f"alphas of single layers: {', '.join(said['alphas'])}"
    return found

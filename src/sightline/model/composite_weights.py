"""Weights of one tower out of published safetensors, whether they hold the tower alone or a whole model in which its keys carry a prefix."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.errors import Problem, Refused
from sightline.model import hub_layout, open_clip

if TYPE_CHECKING:
    from torch import Tensor, nn

_COUNTER = "num_batches_tracked"
"""Batches that a batch normalisation has seen: some checkpoints leave it out, and nothing is computed from it."""
_FIX = "use the checkpoint and the config of this architecture"


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """A tensor of a checkpoint, not read yet."""

    name: str
    file: Path
    shape: tuple[int, ...]


def find(checkpoint: str) -> Path | None:
    """Where a checkpoint is: a folder of safetensors, with or without config.json, else what open_clip means by it, a file; None where it is not at hand."""
    local = Path(checkpoint).expanduser()
    if local.is_dir() and any(local.glob("*.safetensors")):
        return local
    return open_clip.weights_file(checkpoint) or hub_layout.find(checkpoint)


def beside(checkpoint: str | None, name: str) -> dict[str, Any] | None:
    """A JSON file of that name beside the weights, such as config.json; None where there is none, or no checkpoint."""
    found = find(checkpoint) if checkpoint else None
    file = (found if found.is_dir() else found.parent) / name if found else None
    return hub_layout.read_json(file) if file and file.is_file() else None


def load(
    module: nn.Module, checkpoint: str | None, prefixes: Sequence[str], place: str, *, rules: Sequence[tuple[str, str]] = (), without: tuple[str, ...] = ()
) -> None:
    """Copies into `module` what a checkpoint at hand holds under the first of `prefixes` that leads to one of its tensors; without one, `module` stays as it is.

    `rules` (pattern, replacement) turn published names, freed of the prefix, into those of the module. `without`: beginnings of such names that other parts own.
    Raises Refused with every tensor that is missing, unknown or of another shape: codes model/missing-weights, model/unknown-weights, model/shape-mismatch; or with
    model/checkpoint-not-read.
    """
    found = find(checkpoint) if checkpoint else None
    if found is None:
        return
    own, stored = module.state_dict(), _stored(found, place)
    parts = ({_renamed(tensor.name.removeprefix(prefix), rules): tensor for tensor in stored if tensor.name.startswith(prefix)} for prefix in prefixes)
    part = next((part for part in parts if own.keys() & part.keys()), {})
    given = {name: tensor for name, tensor in part.items() if not name.startswith(without)}
    if problems := _problems(own, given, str(found), prefixes):
        raise Refused(problems)
    _copy(own, given)


def _renamed(name: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _stored(found: Path, place: str) -> list[_Stored]:
    from safetensors import SafetensorError, safe_open

    files = [found] if found.is_file() else sorted(found.glob("*.safetensors"))
    tensors = []
    try:
        if not files:
            raise FileNotFoundError("no *.safetensors in the folder")
        for file in files:
            with safe_open(file, framework="pt") as stream:
                tensors += [_Stored(name=name, file=file, shape=tuple(stream.get_slice(name).get_shape())) for name in sorted(stream.keys())]
    except (OSError, SafetensorError) as error:
        raise Refused(
            Problem(
                code="model/checkpoint-not-read",
                place=f"{place} ({found})",
                found=f"{type(error).__name__}: {error}".splitlines()[0],
                allowed="weights as safetensors",
                fix="fetch the checkpoint again",
            )
        ) from None
    return tensors


def _problems(own: Mapping[str, Tensor], given: Mapping[str, _Stored], found: str, prefixes: Sequence[str]) -> list[Problem]:
    missing = sorted(name for name in own.keys() - given.keys() if not name.endswith(_COUNTER))
    unknown = sorted(given[name].name for name in given.keys() - own.keys())
    allowed = f"exactly the tower's tensors, under one of the prefixes {', '.join(repr(prefix) for prefix in prefixes)}"
    problems = [
        Problem(code=code, place=found, found=f"{len(names)} tensors {said}: {', '.join(names[:8])}", allowed=allowed, fix=_FIX)
        for code, names, said in (("model/missing-weights", missing, "are not in the checkpoint"), ("model/unknown-weights", unknown, "have no place"))
        if names
    ]
    for name in sorted(own.keys() & given.keys()):
        shape, wanted = given[name].shape, tuple(own[name].shape)
        if shape != wanted:
            place = f"{found}:{given[name].name}"
            problems.append(Problem(code="model/shape-mismatch", place=place, found=f"{shape} in the checkpoint", allowed=f"{wanted} by the config", fix=_FIX))
    return problems


def _copy(own: Mapping[str, Tensor], given: Mapping[str, _Stored]) -> None:
    from safetensors import safe_open

    for file in sorted({tensor.file for tensor in given.values()}):
        with safe_open(file, framework="pt") as stream:
            for name, tensor in given.items():
                if tensor.file == file:
                    own[name].copy_(stream.get_tensor(tensor.name))

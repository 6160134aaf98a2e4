"""What the tests of vision towers share: pictures of given sizes, random weights without zeros, and comparison of outputs and gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sightline.model.batch import Pictures
from sightline.model.tiling import Crop, Tiling, View
from sightline.samples.frames import Frame


def noise(width: int, height: int, bands: int = 3, seed: int = 0) -> Tensor:
    """A crop of noise, (bands, height, width) uint8."""
    return torch.randint(0, 256, (bands, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def canvas(columns: int, rows: int, side: int, role: Any = "canvas") -> Tiling:
    """A canvas of square tiles in reading order."""
    size = (columns * side, rows * side)
    crops = tuple(
        Crop(view=0, window=(column * side, row * side, side, side), role=role, place=(column, row), valid=(0, 0, side, side))
        for row in range(rows)
        for column in range(columns)
    )
    frame = Frame(width=size[0], height=size[1], scale=(1.0, 1.0), offset=(0.0, 0.0))
    return Tiling(size=size, grid=(columns, rows), views=(View(resized=size, canvas=size),), crops=crops, seen=frame)


def single(width: int, height: int, role: Any = "overview") -> Tiling:
    """A picture of one crop."""
    crop = Crop(view=0, window=(0, 0, width, height), role=role, valid=(0, 0, width, height))
    frame = Frame(width=width, height=height, scale=(1.0, 1.0), offset=(0.0, 0.0))
    return Tiling(size=(width, height), grid=(1, 1), views=(View(resized=(width, height), canvas=(width, height)),), crops=(crop,), seen=frame)


def shown(crops: Sequence[Tensor], tilings: Sequence[Tiling] | None = None) -> Pictures:
    """A batch of these crops; without tilings each is a picture."""
    tilings = tuple(tilings or [single(crop.shape[2], crop.shape[1]) for crop in crops])
    owners = [number for number, tiling in enumerate(tilings) for _ in tiling.crops]
    assert len(owners) == len(crops)
    return Pictures(tilings=tilings, picture_of=torch.tensor(owners, dtype=torch.int64), pixels=tuple(crops))


@torch.no_grad()
def randomise(module: nn.Module, seed: int = 0, spread: float = 0.2) -> None:
    """Random numbers in every parameter, around 1 in weights of norms: what starts at zero would hide a path."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        centre = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0
        parameter.copy_(centre + spread * torch.randn(parameter.shape, generator=generator))


def normalised(crop: Tensor, module: Any) -> Tensor:
    """(bands, h, w) as the module normalises it."""
    return ((crop.view(-1, 3, *crop.shape[1:]).float() - module.mean) / module.std).view(crop.shape)


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest number."""
    assert found.shape == expected.shape
    size = float(expected.detach().abs().max())
    difference = float((found - expected).detach().abs().max())
    return difference / size if size else difference


def backward(outputs: Iterable[Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Gradients of a fixed random sum of the outputs, by parameter."""
    generator = torch.Generator().manual_seed(1)
    module.zero_grad()
    torch.stack([(output * torch.randn(output.shape, generator=generator)).sum() for output in outputs]).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters() if parameter.grad is not None}


def worst(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Largest relative difference of any tensor."""
    assert found.keys() == expected.keys()
    return max(relative(found[name], expected[name]) for name in expected)


def count(module: nn.Module) -> int:
    """Parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def runs(module: Any) -> list[int]:
    """A list that grows by the number of each block that runs."""
    ran: list[int] = []
    for number, block in enumerate(module.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    return ran

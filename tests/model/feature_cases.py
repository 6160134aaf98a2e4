"""Random features of crops, and the laws that every connector and combine keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sightline.model.batch import Features, Pictures
from sightline.model.tiling import Grid, Tiling


def raster(*shapes: tuple[int, int]) -> tuple[Grid, ...]:
    """Grids of (columns, rows)."""
    return tuple(Grid(columns=columns, rows=rows) for columns, rows in shapes)


def random_features(grids: Sequence[Grid], channels: int, seed: int = 0, crops: Sequence[int] | None = None) -> Features:
    """Normal values for crops of these grids; they are crops 0, 1, .. of the batch unless `crops` says which."""
    values = torch.randn(sum(grid.count for grid in grids), channels, generator=torch.Generator().manual_seed(seed))
    return Features(values=values, grids=tuple(grids), crops=tuple(range(len(grids)) if crops is None else crops))


def pictures_of(*tilings: Tiling) -> Pictures:
    """Tilings without pixels, as a batch has them whose features are cached."""
    return Pictures(tilings=tilings, picture_of=torch.tensor([number for number, tiling in enumerate(tilings) for _ in tiling.crops]))


def seeded(make: Callable[[], Any], seed: int = 0) -> Any:
    """A module with random values in every parameter that is trained: none at a start where it could hide, such as zero biases."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = make()
        with torch.no_grad():
            for parameter in (one for one in module.parameters() if one.requires_grad):
                parameter.copy_(torch.randn_like(parameter) * 0.3 + (0.5 if parameter.dim() == 1 else 0))
    return module


def counted(make: Callable[[], nn.Module]) -> int:
    """Numbers that a module's state holds at true size; nothing is allocated."""
    with torch.device("meta"):
        return sum(tensor.numel() for tensor in make().state_dict().values())


def assert_close(found: Tensor, expected: Tensor, bound: float = 1e-5) -> None:
    """max |a - b| / max |b| within the bound."""
    assert found.shape == expected.shape
    worst = float((found - expected).detach().abs().max() / expected.detach().abs().max())
    assert worst <= bound, worst


def assert_keeps_laws(module: Any, grids: Sequence[Grid], channels: int, width: int, pictures: Pictures | None = None) -> None:
    """Shapes and crops add up; a crop alone comes out as in company; no crops are no tokens; every tensor and every input gets a gradient."""
    features = random_features(grids, channels)
    features.values.requires_grad_()
    found = module(features, pictures=pictures)
    assert found.values.shape == (sum(grid.count for grid in found.grids), width)
    assert found.crops == features.crops and found.grids == tuple(module.config.grid(grid) for grid in grids)
    found.values.mul(torch.randn(found.values.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    open_ones = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    silent = [name for name, parameter in open_ones if parameter.grad is None or not parameter.grad.abs().sum()]
    assert not silent and features.values.grad is not None and bool(features.values.grad.abs().sum(1).all())
    with torch.no_grad():
        for number, (grid, own, expected) in enumerate(zip(grids, features.split(), found.split(), strict=True)):
            alone = module(Features(values=own, grids=(grid,), crops=(number,)), pictures=pictures)
            assert_close(alone.values, expected, 5e-6)
        nothing = module(random_features((), channels), pictures=pictures)
        assert nothing.values.shape == (0, width) and nothing.grids == () == nothing.crops

"""Position tables of vision transformers for crops of other sizes. Letters: P positions of a table, C channels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sightline.model.towers.tower_table import Rule


def resized(table: Tensor, lead: int, old: tuple[int, int], new: tuple[int, int], rule: Rule) -> Tensor:
    """(P, C) -> (P', C): bicubic, computed in float32, from (rows, columns) `old` to `new`; `lead` entries before the raster are kept.

    interpolate: outer edges of the grids coincide (transformers; LLaVA-UHD, https://arxiv.org/abs/2403.11703); interpolate-aligned: centres of the outer cells
    coincide (GeoChat, 336 to 504 px, https://arxiv.org/abs/2311.15826); interpolate-antialiased: as interpolate, with a wider filter where the grid shrinks (DINOv2
    with registers, https://arxiv.org/abs/2309.16588).
    """
    raster = table[lead:].float().view(*old, -1).permute(2, 0, 1)[None]
    raster = interpolate(raster, size=new, mode="bicubic", align_corners=rule == "interpolate-aligned", antialias=rule == "interpolate-antialiased")
    return torch.cat([table[:lead], raster[0].flatten(1).T.to(table.dtype)])


def buckets(cells: int, side: int) -> Tensor:
    """(cells,) which of `side` learnt positions each cell of an axis takes: cell i takes the one that i / cells falls into.

    Fractional positions of NaViT (https://arxiv.org/abs/2307.06304, section 2.1) as Idefics2 uses them (https://arxiv.org/abs/2405.02246).
    """
    bounds = torch.arange(1 / side, 1.0, 1 / side)
    # float32 step by step as the published model computes it: at 1/3 and the like the last bit decides the bucket
    places = torch.arange(cells, dtype=torch.float32) * (1.0 / torch.tensor(cells))
    return torch.bucketize(places.clamp(max=1.0 - 1e-6), bounds, right=True)


def bucket_ids(rows: int, columns: int, side: int) -> Tensor:
    """(rows * columns,) entries of a table of side x side, in raster order."""
    return (buckets(rows, side)[:, None] * side + buckets(columns, side)).flatten()

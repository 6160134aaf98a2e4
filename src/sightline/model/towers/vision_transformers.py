"""Runs vision transformers of every model type by one loop. Letters: K crops, L tokens of the longest crop, C channels (see batch.py)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from sightline.model.encoders import Read
from sightline.model.tiling import Grid
from sightline.model.towers.crop_groups import CropsOfSize
from sightline.model.towers.masked_blocks import take_masks
from sightline.model.towers.position_tables import bucket_ids, resized
from sightline.model.towers.tower_table import TOWERS, Rule, learnt_grid


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Dotted names of what stands where in a tower; an empty name: it has none."""

    patches: str = "embeddings.patch_embedding"
    """The convolution that makes patches."""
    table: str = "embeddings.position_embedding"
    """Learnt positions, those of the class token first."""
    lead: str = ""
    """Class token before the raster."""
    registers: str = ""
    """Tokens between class token and raster that have no positions."""
    dropout: str = ""
    before: str = ""
    """Normalisation before the first block: hidden state 0 is its output."""
    blocks: str = "encoder.layers"
    norm: str = "post_layernorm"
    """The final normalisation."""
    unread: tuple[str, ...] = ()
    """What no hidden state depends on."""


_BLIP = Anatomy(lead="embeddings.class_embedding")
_DINO = Anatomy(
    patches="embeddings.patch_embeddings.projection",
    table="embeddings.position_embeddings",
    lead="embeddings.cls_token",
    dropout="embeddings.dropout",
    blocks="encoder.layer",
    norm="layernorm",
    unread=("embeddings.mask_token",),
)
ANATOMY = {
    "clip_vision_model": Anatomy(lead="embeddings.class_embedding", before="pre_layrnorm"),
    "siglip_vision_model": Anatomy(unread=("head.",)),
    "blip_vision_model": _BLIP,
    "blip_2_vision_model": _BLIP,
    "idefics2_vision": Anatomy(),
    "dinov2": _DINO,
    "dinov2_with_registers": replace(_DINO, registers="embeddings.register_tokens"),
    "internvl_vision": _DINO,
}
"""Model type -> where its parts are."""


class VisionTransformer:
    """Embeds crops size by size, then runs every block once for all of them: shorter ones are padded at the end, and nothing attends to padding."""

    def __init__(self, tower: nn.Module, block: dict[str, Any], rule: Rule) -> None:
        self.tower = tower
        self.anatomy = ANATOMY[block["model_type"]]
        self.rule: Rule = rule
        self.learnt = learnt_grid(block)
        self.table_lead = TOWERS[block["model_type"]].lead
        take_masks(self._part(self.anatomy.blocks), block["model_type"])

    @property
    def blocks(self) -> list[nn.Module]:
        """All blocks in depth order."""
        return list(self._part(self.anatomy.blocks))

    @property
    def first(self) -> nn.Conv2d:
        """The convolution that sees the bands."""
        return self._part(self.anatomy.patches)

    def deepest(self, reads: Iterable[Read]) -> int:
        """How many blocks have to run for these reads."""
        return max(layer % (len(self.blocks) + 1) for read in reads for layer in read.layers)

    def spare(self, reads: Sequence[Read]) -> list[str]:
        """Names of the tower's parameters that none of these reads depends on."""
        deepest = self.deepest(reads)
        unread = [*self.anatomy.unread, *(f"{self.anatomy.blocks}.{number}." for number in range(deepest, len(self.blocks)))]
        if not any(read.final_norm for read in reads):
            unread.append(f"{self.anatomy.norm}.")
        if not deepest and all(read.lead == "drop" for read in reads):
            unread += [name for name in (self.anatomy.lead, self.anatomy.registers) if name]
        return [name for name, _ in self.tower.named_parameters() if name.startswith(tuple(unread))]

    def __call__(self, groups: Sequence[CropsOfSize], read: Read, prompts: Tensor | None = None) -> tuple[Tensor, list[Grid]]:
        """What `read` takes, (sum of counts, C), and the grid of each crop, in the order of the groups' places."""
        embedded = [self.embed(group.crops) for group in groups]
        lead = self.table_lead + (self._part(self.anatomy.registers).shape[1] if self.anatomy.registers else 0)
        skipped = lead if read.lead == "drop" else 0
        places = [place for group in groups for place in group.places]
        sizes = [size for group, (_, size) in zip(groups, embedded) for _ in group.places]
        grids = [Grid(columns=columns, rows=rows, lead=lead - skipped) for _, (rows, columns) in sorted(zip(places, sizes))]
        if len(groups) == 1:
            kept = [state[:, skipped:].flatten(0, 1) for state in self.states(embedded[0][0], None, read.layers, prompts)]
        else:
            x, real = _padded([values for values, _ in embedded], places)
            mask = torch.zeros(real.shape, dtype=x.dtype).masked_fill(~real, torch.finfo(x.dtype).min)[:, None, None].to(x.device)
            real[:, :skipped] = False
            taken = real.flatten().nonzero()[:, 0].to(x.device)
            kept = [state.flatten(0, 1)[taken] for state in self.states(x, mask, read.layers, prompts)]
        if read.final_norm:
            kept = [self._part(self.anatomy.norm)(values) for values in kept]
        joined = torch.stack(kept, dim=-1).flatten(1) if read.join == "interleave" else torch.cat(kept, dim=-1)
        return joined, grids

    def maps(self, crops: Tensor, read: Read) -> list[Tensor]:
        """The raster of each layer that `read` takes, (K, C, rows, columns) each; tokens before it are left out."""
        x, (rows, columns) = self.embed(crops)
        states = self.states(x, None, read.layers)
        if read.final_norm:
            states = [self._part(self.anatomy.norm)(state) for state in states]
        return [state[:, state.shape[1] - rows * columns :].transpose(1, 2).unflatten(2, (rows, columns)) for state in states]

    def embed(self, crops: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(n, bands, h, w) -> hidden state 0 (n, lead + rows * columns, C), and (rows, columns)."""
        anatomy = self.anatomy
        patches = self.first(crops.to(self.first.weight.dtype))
        rows, columns = patches.shape[2:]
        x = patches.flatten(2).transpose(1, 2)
        if anatomy.lead:
            x = torch.cat([self._part(anatomy.lead).view(1, 1, -1).expand(len(x), -1, -1), x], dim=1)
        table = self._part(anatomy.table)
        if table is not None:
            x = x + self._positions(table.weight if isinstance(table, nn.Embedding) else table[0], (rows, columns))
        if anatomy.registers:
            x = torch.cat([x[:, :1], self._part(anatomy.registers).expand(len(x), -1, -1), x[:, 1:]], dim=1)
        for name in (anatomy.dropout, anatomy.before):
            x = self._part(name)(x) if name else x
        return x, (rows, columns)

    def states(self, x: Tensor, mask: Tensor | None, layers: Sequence[int], prompts: Tensor | None = None) -> list[Tensor]:
        """The hidden states at these layers, (K, L, C) each; blocks above the deepest are not run. `mask` (K, 1, 1, L) is added to the scores.

        `prompts` (G, Q, C): Q vectors in front of the tokens, new ones before each of the first G blocks (Jia et al. 2022, equations 4 and 6); in no hidden state.
        """
        depth = len(self._part(self.anatomy.blocks))
        assert all(-depth - 1 <= layer <= depth for layer in layers), f"layers {layers} of {depth} blocks"
        levels = [layer % (depth + 1) for layer in layers]
        found = {0: x}
        count = 0 if prompts is None else prompts.shape[1]
        mask = mask if mask is None else pad(mask, (count, 0))
        for number, block in enumerate(islice(self._part(self.anatomy.blocks), max(levels)), 1):
            if prompts is not None and number <= len(prompts):
                x = torch.cat([prompts[number - 1].to(x.dtype).expand(len(x), -1, -1), x[:, count if number > 1 else 0 :]], dim=1)
            x = block(x, attention_mask=mask)
            if number in levels:
                found[number] = x[:, count:]
        return [found[level] for level in levels]

    def _positions(self, table: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.rule == "buckets":
            return table[bucket_ids(*grid, self.learnt[0]).to(table.device)]
        return table if grid == self.learnt else resized(table, self.table_lead, self.learnt, grid, self.rule)

    def _part(self, name: str) -> Any:
        return reduce(getattr, name.split("."), self.tower)


def _padded(parts: Sequence[Tensor], places: list[int]) -> tuple[Tensor, Tensor]:
    """Crops (n, count, C) of several counts as one (K, L, C) in the order of their places, and which of its tokens are real, (K, L) on the host."""
    longest = max(part.shape[1] for part in parts)
    order = torch.tensor(places).argsort()
    counts = torch.tensor([part.shape[1] for part in parts for _ in part])[order]
    x = torch.cat([pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])
    return x[order.to(x.device)], torch.arange(longest) < counts[:, None]

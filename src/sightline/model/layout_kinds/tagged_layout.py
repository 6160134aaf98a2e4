"""A tag in plain text before each crop (NVLM)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sightline.model.layouts import Layout, Route, crop_of, crop_slots, texts
from sightline.model.pieces import Piece
from sightline.model.tiling import Grid, Tiling


class TaggedLayout(Layout):
    """Crops in the tiler's order, each after its tag; a single crop has the overview's tag.

    NVLM (https://arxiv.org/abs/2409.11402, section 4). D: all crops in the decoder. X: all crops in memory, `tags: decoder`; a tag reads its own crop's memory alone.
    H: overview in the decoder, tiles in memory with their tags.
    The tags are ordinary text. The paper's last tag is `<tile_global>`, that of the released 72B model `<tile_global_thumbnail>`.
    """

    kind: Literal["tagged"] = "tagged"
    before: str = "<Image>"
    """Text in the decoder before all of it."""
    tile: str = "<tile_{}>"
    """Tag of a tile; {} becomes its number, from 1."""
    overview: str = "<tile_global_thumbnail>"
    """Tag of the overview."""
    after: str = "</Image>"
    """Text in the decoder after all of it."""
    tags: Literal["with-crop", "decoder"] = "with-crop"
    """Whether a tag stands in its crop's stream, or in the decoder whatever the crop's stream."""

    def pieces(self, picture: int, tiling: Tiling, grids: Sequence[Grid], route: Route) -> list[Piece]:
        """[before] (tag crop) ... [after]."""
        slots = crop_slots(picture, tiling, grids, route)
        found, number = texts(self.before), 0
        for one in slots:
            whole = len(slots) == 1 or crop_of(tiling, one).role == "overview"
            number += not whole
            tag = self.overview if whole else self.tile.replace("{}", str(number))
            sees = one.crop if one.stream == "memory" else None
            found += [*texts(tag, one.stream if self.tags == "with-crop" else "decoder", sees), one]
        return [*found, *texts(self.after)]

"""Parts by their kinds. In an exported folder a file of this name knows the kinds of that model alone, and nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sightline.export.remote_code_files.exported_encoders import StagedEncoder, TowerEncoder, staged_grid, tower_grid
from sightline.model.combines import COMBINE
from sightline.model.connector_table import CONNECTOR
from sightline.model.layout_table import LAYOUT
from sightline.model.tiler_table import TILER

_FAMILIES = {"tiler": TILER, "layout": LAYOUT, "combine": COMBINE, "connector": CONNECTOR}
ENCODERS: dict[str, Any] = {"transformers": TowerEncoder, "staged-convnext": StagedEncoder}
"""Kind -> module of an encoder."""
GRIDS: dict[str, Any] = {"transformers": tower_grid, "staged-convnext": staged_grid}
"""Kind of an encoder -> the grid of a crop."""


def part(family: str, said: Mapping[str, Any]) -> Any:
    """The Config of a part, as config.json states it."""
    return _FAMILIES[family].parse(dict(said))

"""All kinds of tiler, in one table. Who needs them by kind imports TILER from here."""

from __future__ import annotations

from sightline.model.tilers.aspect_grids import CattyTiler, InternVlTiler
from sightline.model.tilers.canvases import CanvasTiler
from sightline.model.tilers.margins import MolmoTiler
from sightline.model.tilers.native import MaxSideTiler, QuadSplitTiler, SmartResizeTiler
from sightline.model.tilers.pinpoints import LlavaNextTiler
from sightline.model.tilers.slices import LlavaUhdTiler
from sightline.model.tilers.two_resolutions import DualResolutionTiler
from sightline.model.tiling import TILER

for _tiler in (
    LlavaNextTiler,
    LlavaUhdTiler,
    CattyTiler,
    InternVlTiler,
    MolmoTiler,
    CanvasTiler,
    SmartResizeTiler,
    MaxSideTiler,
    QuadSplitTiler,
    DualResolutionTiler,
):
    TILER.add(_tiler)

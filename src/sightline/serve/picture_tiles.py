"""/v1/tiles: how the model cuts a picture up, as its processor does it."""

from __future__ import annotations

from typing import Any

from sightline.errors import Problem, Refused
from sightline.model.processor import Processor
from sightline.model.tilers.windows import source_box
from sightline.serve.conversation import refused
from sightline.serve.jobs import Declined
from sightline.serve.media import Media
from sightline.serve.protocol import TilesRequest


def picture_tiles(request: TilesRequest, processor: Processor, media: Media) -> dict[str, Any]:
    """The body of the reply. Per crop: its role, its window (x, y, w, h) in px of its view, the rectangle of the window that shows picture and not
    fill, what that shows (x0, y0, x1, y1) in px of the picture, and its tokens after the connector.

    Waits for hosts and decoding: call it outside of the event loop. Raises Declined.
    """
    if processor.config.tiler is None:
        problem = Problem(code="serve/unable", place="model", found="a model without encoders", allowed="a model that sees", fix="serve another model")
        raise Declined(400, problem)
    picture = media.picture(request.image_url.url, "image_url")
    try:
        measure = processor.measure(picture.width, picture.height, request.among)
    except Refused as problems:
        raise refused(problems) from None
    tiling = measure.tiling
    views = [{"resized": view.resized, "canvas": view.canvas, "of": view.of} for view in tiling.views]
    crops = [
        {
            "role": crop.role,
            "view": crop.view,
            "window": crop.window,
            "valid": crop.valid,
            "box": [round(edge, 2) for edge in source_box(tiling, crop)],
            "place": crop.place,
            "tokens": grid.count,
        }
        for crop, grid in zip(tiling.crops, measure.grids, strict=True)
    ]
    counts = {"tokens": measure.decoder, "memory_tokens": measure.memory, "encoder_tokens": dict(measure.encoded)}
    return {"size": tiling.size, "grid": tiling.grid, "views": views, "crops": crops, **counts}

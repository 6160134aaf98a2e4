"""From pictures to rows of pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import make_flat_list_of_images

from sightline.export.remote_code_files.picture_geometry import Geometry
from sightline.samples.pictures import rgb_on_white


class SightlineImageProcessor(BaseImageProcessor):
    """Cuts pictures as the model was trained to see them: PIL pictures of 8 bits, or arrays (height, width, 3) uint8. Nothing is turned by EXIF, as with other processors.

    `pixel_values` (rows, length) uint8, 0..255: the model normalises them. `picture_sizes` (rows, 2): width and height of the picture that a row belongs to, px.
    """

    model_input_names = ["pixel_values", "picture_sizes"]

    def __init__(self, parts: dict[str, Any] | None = None, **others: Any) -> None:
        super().__init__(**others)
        self.parts = parts

    def preprocess(self, images: Any, *others: Any, return_tensors: Any = None, **settings: Any) -> BatchFeature:
        """`pixel_values` and `picture_sizes` of all pictures, one after another. Settings of other processors, such as `size`, change nothing."""
        geometry = Geometry(self.parts or {})
        opened: Any = self.fetch_images(images)
        listed: Any = make_flat_list_of_images(opened)
        pictures = [_pixels(image) for image in listed]
        rows = [geometry.rows(picture) for picture in pictures]
        sizes = [np.tile(np.array([picture.shape[1], picture.shape[0]], np.int64), (len(own), 1)) for picture, own in zip(pictures, rows)]
        return BatchFeature({"pixel_values": np.concatenate(rows), "picture_sizes": np.concatenate(sizes)}, tensor_type=return_tensors)


def _pixels(image: Any) -> np.ndarray:
    """(height, width, 3) uint8."""
    if isinstance(image, Image.Image):
        if image.mode in ("I;16", "I;16B", "I", "F"):
            raise ValueError(f"a picture of pixel mode {image.mode}: convert it to 8 bits a band")
        return rgb_on_white(image)
    found = np.asarray(image)
    if found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3:
        raise ValueError(f"an array {found.shape} of {found.dtype}: pictures are PIL pictures or arrays (height, width, 3) of uint8")
    return found

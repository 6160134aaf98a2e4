"""Texts and pictures of an exported model together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers.processing_utils import MultiModalData, ProcessorMixin

from sightline.export.remote_code_files.picture_geometry import Geometry


class SightlineProcessor(ProcessorMixin):
    """Each `image_token` of a text becomes a picture as the model's layout writes it."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, image_token: str = "<image>", **others: Any
    ) -> None:
        self.image_token = image_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @property
    def _geometry(self) -> Geometry:
        return Geometry(self.image_processor.parts)

    def replace_image_token(self, image_inputs: Any, image_idx: int, **settings: Any) -> str:
        """Picture number `image_idx` in words and tokens."""
        geometry = self._geometry
        sizes = image_inputs["picture_sizes"]
        width, height = geometry.pictures(sizes.tolist() if hasattr(sizes, "tolist") else sizes)[image_idx]
        return geometry.written(geometry.seen(width, height), self.image_token)

    def _get_num_multimodal_tokens(self, image_sizes: Sequence[Sequence[int]] | None = None, **settings: Any) -> MultiModalData:
        """Entries and rows of pictures of these sizes (height, width), px: what serving engines ask before they see a picture."""
        if image_sizes is None:
            return MultiModalData()
        geometry = self._geometry
        seen = [geometry.seen(width, height) for height, width in image_sizes]
        return MultiModalData(num_image_tokens=[len(one.entries) for one in seen], num_image_patches=[geometry.rows_of(one.tiling) for one in seen])

"""What a mask head is asked in a batch, and masks from what it draws. Letters: G masks, V pictures, S px of a side, s places of the head's grid (see batch.MaskTaps)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from sightline.model.assembly import ModelConfig
from sightline.model.batch import MaskTaps, to_device
from sightline.model.heads import MaskHead
from sightline.model.mask_views import view_mask, view_of, view_pixels, view_share, view_target
from sightline.model.packing import Encoded
from sightline.samples.sample import Mask, Picture

if TYPE_CHECKING:
    from sightline.model.vlm import Model

KEPT_BYTES = 256 << 20
"""Views of pictures that are kept: small sets are decoded once and not once an epoch."""
Read = Callable[[Picture, tuple[str, ...], Path | None], NDArray[np.generic]]
"""Pixels (H, W, bands) of a picture in these bands; the folder is that of its store."""


class MaskAsking:
    """Makes what the head of one model is asked."""

    def __init__(self, config: ModelConfig, head: MaskHead, read: Read) -> None:
        self.read = read
        self.side, self.stride = head.side, head.stride
        self.bands, self.fill = head.bands(config.encoders), head.fill(config.encoders)
        self._known: dict[tuple[str, tuple[str, ...]], Tensor] = {}

    def of(self, rows: Sequence[Encoded], root: Path | None = None) -> MaskTaps | None:
        """All masks that rows name, with their targets, in the order of the rows' answers; None where they name none."""
        places: list[int] = []
        views: list[int] = []
        targets: list[NDArray[np.float32]] = []
        shown: dict[str, Picture] = {}
        before = 0
        for one in rows:
            for answer, (number, shape) in one.taps:
                picture = one.pictures[number]
                assert isinstance(picture, Picture), "no region lies on a film"
                shown.setdefault(picture.hash, picture)
                places.append(before + answer)
                views.append(list(shown).index(picture.hash))
                size = (picture.width, picture.height)
                targets.append(view_target(shape, size, view_of(*size, self.side), self.side, self.stride))
            before += len(one.answers)
        if not places:
            return None
        asked = self._seen(list(shown.values()), root)
        return MaskTaps(answers=torch.tensor(places), views=torch.tensor(views), pixels=asked[0], share=asked[1], targets=torch.from_numpy(np.stack(targets)))

    def about(self, picture: Picture, count: int, root: Path | None = None) -> MaskTaps:
        """So many masks on one picture, without targets."""
        pixels, share = self._seen([picture], root)
        none = torch.zeros(count, dtype=torch.int64)
        return MaskTaps(answers=torch.arange(count), views=none, pixels=pixels, share=share)

    def _seen(self, pictures: Sequence[Picture], root: Path | None) -> tuple[Tensor, Tensor]:
        """Views (V, bands, S, S), and how much of each place shows picture (V, s, s)."""
        shares = [view_share(view_of(one.width, one.height, self.side), self.side, self.stride) for one in pictures]
        return torch.stack([self._view(one, root) for one in pictures]), torch.from_numpy(np.stack(shares))

    def _view(self, picture: Picture, root: Path | None) -> Tensor:
        key = (picture.hash, picture.bands)
        found = self._known.get(key)
        if found is None:
            view = view_of(picture.width, picture.height, self.side)
            found = torch.from_numpy(view_pixels(self.read(picture, self.bands, root), view, self.side, self.fill))
            if (len(self._known) + 1) * found.nbytes <= KEPT_BYTES:
                self._known[key] = found
        return found

    def forget(self) -> None:
        """Let go of the views that are kept."""
        self._known.clear()

    @torch.no_grad()
    def drawn(self, model: Model, taps: Tensor, picture: Picture) -> list[Mask]:
        """Masks of a picture, in its px, that hidden states (G, D) stand for."""
        asked = to_device(self.about(picture, len(taps)), taps.device)
        logits = model.draw(taps, asked)
        side = (self.side, self.side)
        whole = logits.float()[:, None] if logits.shape[1:] == side else interpolate(logits.float()[:, None], size=side, mode="bilinear", align_corners=False)
        view = view_of(picture.width, picture.height, self.side)
        return [view_mask(one, view, picture.width, picture.height) for one in whole[:, 0].cpu().numpy()]

"""Tensors of a checkpoint on disk, of which any process reads the rows that it needs: whole, or in pieces that several processes wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from sightline.train.train_state import Piece

_STARTS = "pieces"


def starts_of(pieces: Mapping[str, Piece]) -> dict[str, str]:
    """The metadata of a file of pieces: name -> [first row, rows of the whole tensor], for what is not whole."""
    return {_STARTS: json.dumps({name: [p.start, p.of] for name, p in pieces.items() if p.values.dim() and p.values.shape[0] != p.of})}


class SavedTensors:
    """The tensors of the files of a checkpoint, FILE.safetensors and FILE.rank-k.safetensors. Nothing is read before it is asked for."""

    def __init__(self, folder: Path, files: Iterable[str]) -> None:
        self.folder = folder
        self._places: dict[str, dict[str, list[tuple[int, str]]]] = {}
        """File -> tensor -> (first row, name on disk) of its pieces, in order."""
        for name in files:
            with safe_open(folder / name, "pt") as stored:
                starts = json.loads((stored.metadata() or {}).get(_STARTS, "{}"))
                own = self._places.setdefault(name.split(".")[0], {})
                for key in stored.offset_keys():
                    own.setdefault(key, []).append((starts.get(key, [0])[0], name))
        for own in self._places.values():
            for pieces in own.values():
                pieces.sort()

    def names(self, file: str) -> set[str]:
        """Names of the whole tensors that a file holds."""
        return set(self._places.get(file, {}))

    def read(self, file: str, name: str, start: int = 0, rows: int | None = None) -> Tensor:
        """Rows [start, start + rows) of a tensor; all of it without `rows`."""
        found = []
        for first, stored_in in self._places[file][name]:
            with safe_open(self.folder / stored_in, "pt") as stored:
                piece = stored.get_slice(name)
                shape = piece.get_shape()
                if not shape:
                    return stored.get_tensor(name)
                low = max(start, first) - first
                high = shape[0] if rows is None else min(start + rows, first + shape[0]) - first
                if low < high or (rows is None and not shape[0]):
                    found.append(piece[low:high])
        return found[0] if len(found) == 1 else torch.cat(found)

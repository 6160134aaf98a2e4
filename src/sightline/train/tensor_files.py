"""Safetensors files by offset: tensors read in slices, and files written one tensor after the other. Nothing is ever held whole.

The format: 8 bytes with the length of a JSON header (little-endian), the header `name -> {dtype, shape, data_offsets}`, then the bytes of all tensors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sightline.errors import Problem, Refused
from sightline.model import hub_layout
from sightline.model.directory import INDEX

FLOATS = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
"""Floating point numbers that can be averaged, and their bytes."""
WHOLE = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Whole numbers: they must be equal."""
_WIDEST_FIRST = ("U64", "I64", "F64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "I8", "U8", "BOOL")
"""The order in which the published writer lays out tensors, so that the same tensors give the same file."""
_LONGEST_HEADER = 100_000_000
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Where a tensor lies: bytes start..stop of a file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def count(self) -> int:
        """Numbers in it."""
        return int(np.prod(self.shape, dtype=np.int64))


def read_header(file: Path) -> dict[str, Slot]:
    """Tensors of one safetensors file by name, without reading them. Refused where the file is cut off or is none."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or not 2 <= length <= min(size - 8, _LONGEST_HEADER):
                raise ValueError(f"{size} bytes, and a header of {length}")
            header = json.loads(stream.read(length))
        return {name: _slot(file, said, 8 + length, size) for name, said in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(
            Problem(code="model/broken-weights", place=str(file), found=str(error), allowed="a whole safetensors file", fix="copy the file again")
        ) from None


def _slot(file: Path, said: dict[str, Any], begin: int, size: int) -> Slot:
    start, stop = (begin + int(offset) for offset in said["data_offsets"])
    found = Slot(file=file, dtype=str(said["dtype"]), shape=tuple(int(side) for side in said["shape"]), start=start, stop=stop)
    width = FLOATS.get(found.dtype) or WHOLE.get(found.dtype)
    if width is None:
        raise ValueError(f"numbers of type {found.dtype}, which are not averaged")
    if min(found.shape, default=0) < 0 or not begin <= start <= stop <= size or stop - start != found.count * width:
        raise ValueError(f"bytes {start}..{stop} of {size} for {found.dtype} of shape {found.shape}")
    return found


def tensor_slots(folder: Path) -> dict[str, Slot]:
    """Tensors of a folder by name: of the files that its index names, else of its only safetensors file. Refused where there is none, or the index names what no file has."""
    index = folder / INDEX
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
        if len(files) != 1:
            found = f"{len(files)} safetensors files and no {INDEX}"
            raise Refused(Problem(code="model/no-weights", place=str(folder), found=found, allowed="one file, or several with an index", fix=f"ls {folder}"))
        return read_header(files[0])
    weight_map: dict[str, str] = hub_layout.read_json(index).get("weight_map", {})
    strange = sorted({file for file in weight_map.values() if Path(file).name != file})
    if strange:
        raise Refused(Problem(code="model/path-escape", place=str(index), found=strange[0], allowed="file names without folders", fix="fetch the model again"))
    headers = {file: read_header(folder / file) for file in sorted(set(weight_map.values()))}
    absent = [name for name, file in weight_map.items() if name not in headers[file]]
    if absent:
        raise Refused(
            Problem(code="model/missing-weights", place=str(index), found=f"no tensor {absent[0]} in {weight_map[absent[0]]}, and {len(absent) - 1} more")
        )
    return {name: headers[file][name] for name, file in sorted(weight_map.items())}


class Reader:
    """Open files, read at offsets. Each thread brings its own buffer."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self, file: Path) -> None:
        """Make a file ready to be read; before threads start."""
        if file not in self._open:
            self._open[file] = os.open(file, os.O_RDONLY)
            self._stack.callback(os.close, self._open[file])

    def read(self, slot: Slot, first: int, buffer: np.ndarray) -> np.ndarray:
        """Numbers from `first` on, as many as the uint8 `buffer` has bytes for; returned as bytes."""
        width = (FLOATS | WHOLE)[slot.dtype]
        count = min(len(buffer) // width, slot.count - first)
        view = buffer[: count * width]
        start, done = slot.start + first * width, 0
        while done < len(view):
            got = os.preadv(self._open[slot.file], [memoryview(view)[done:]], start + done)  # pyright: ignore[reportArgumentType]
            if not got:
                raise Refused(
                    Problem(code="model/broken-weights", place=str(slot.file), found="it became shorter while it was read", fix="copy the file again")
                )
            done += got
        return view


def numbers(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Bytes as float16, float32 or float64 numbers, which hold what `dtype` holds exactly."""
    if dtype == "BF16":
        return (raw.view("<u2").astype("<u4") << 16).view("<f4")
    return raw.view(_NUMPY[dtype])


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """float64 numbers as bytes of `dtype`: rounded to float32 first, then once more where it is narrower, to the nearest, ties to even."""
    if dtype == "F64":
        return values.astype("<f8").view(np.uint8)
    single = values.astype("<f4")
    if dtype == "BF16":
        bits = single.view("<u4")
        bits += np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return (bits >> np.uint32(16)).astype("<u2").view(np.uint8)
    return single.astype(_NUMPY[dtype]).view(np.uint8)


def in_file_order(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> list[str]:
    """Names as they lie in a file: wide numbers first, then by name."""
    return sorted(tensors, key=lambda name: (_WIDEST_FIRST.index(tensors[name][0]), name))


@contextmanager
def written(file: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> Iterator[Any]:
    """A safetensors file with these tensors, name -> (dtype, shape): the header is written, and what the body writes are the tensors' bytes in `in_file_order`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in in_file_order(tensors):
        dtype, shape = tensors[name]
        start, end = end, end + int(np.prod(shape, dtype=np.int64)) * (FLOATS | WHOLE)[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb", buffering=0) as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        yield stream
        assert stream.tell() == 8 + len(text) + end, f"{file.name}: {stream.tell() - 8 - len(text)} bytes of tensors written, {end} announced"


def widest(dtypes: Sequence[str]) -> str:
    """The type that holds numbers of all of these: the same where they agree; of bfloat16 and float16, float32."""
    different = set(dtypes)
    if len(different) == 1:
        return dtypes[0]
    if different <= FLOATS.keys():
        return "F64" if "F64" in different else "F32"
    return max(different, key=_WIDEST_FIRST.index)

"""Soup arithmetic: the mean of the weights of several models (Wortsman et al. 2022), tensor by tensor in slices, so that memory does not grow with models or their number.

Numbers are summed in float64, divided once, rounded to float32 once, then to the ingredients' own type: for float32 that is the correctly rounded mean of float32 numbers, whatever the
order of the ingredients (float64 has 29 bits to spare). Whole numbers must be equal. What no ingredient changed is the same file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sightline.errors import Problem, Refused, nearest
from sightline.lineage import sha256_file, sha256_json, write_json
from sightline.model import directory, hub_layout
from sightline.model.directory import INDEX
from sightline.train.soup_adapters import Adapter, is_adapter, read_adapter
from sightline.train.tensor_files import FLOATS, WHOLE, Reader, Slot, in_file_order, numbers, read_header, rounded, tensor_slots, widest, written

CHUNK = 1 << 17
"""Numbers of a slice: their float64 sum and what is added to it stay in a core's own cache, which is twice as fast as four times as many."""
_THREADS = min(4, os.cpu_count() or 1)
_NOT_COPIED = {"lineage.json", "soup.json", "sightline.hashes.json", INDEX}
_NO_MATTER = {"_name_or_path", "transformers_version", "torch_dtype", "dtype"}
"""Keys of a config.json that say nothing about the weights."""


@dataclass(frozen=True, kw_only=True)
class Ingredient:
    """A model that can be mixed, none of it read but its headers."""

    folder: Path
    slots: Mapping[str, Slot]
    parts: Mapping[str, str] = field(default_factory=dict)
    """Content id by part; empty for a checkpoint of another maker."""
    adapter: Adapter | None = None
    """Added to the weights as they are read."""

    @property
    def weights(self) -> str:
        """Content id: that of a model directory's weights; of other folders, over the bytes of their files, which are read."""
        if self.adapter is not None:
            return sha256_json([directory.weights_id(dict(self.parts)), self.adapter.id])
        if self.parts:
            return directory.weights_id(dict(self.parts))
        files = sorted({slot.file for slot in self.slots.values()})
        return sha256_json([sha256_file(file) for file in files])

    def part_of(self, name: str) -> str:
        """The part that a tensor belongs to; empty where parts are not known."""
        return max((part for part in self.parts if name.startswith(part + ".")), key=len, default="")


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """What was written."""

    weights: str
    """Weights id of a model directory; empty for a checkpoint of another maker."""
    parts: dict[str, str]
    tensors: int
    """Tensors that were averaged."""
    linked: tuple[str, ...]
    """Parts that are the same files as an ingredient's."""
    read: int
    """Bytes."""


def open_ingredient(path: Path, base: Ingredient | None = None) -> Ingredient:
    """A model directory, a run, a checkpoint folder, or an `adapter/` folder: that of a model directory means the model, whose weights have it merged; one on its own is merged onto `base`.

    Raises Refused where the folder is none of these.
    """
    if is_adapter(path):
        if (path.parent / INDEX).is_file():
            return open_ingredient(path.parent)
        if base is None:
            raise Refused(
                Problem(
                    code="train/adapter-alone",
                    place=str(path),
                    found="an adapter without a model",
                    allowed="an adapter and the base it was trained on",
                    fix="--base MODEL",
                )
            )
        return Ingredient(folder=base.folder, slots=base.slots, parts=base.parts, adapter=read_adapter(path, base.slots))
    plain = (path / "config.json").is_file() and any(path.glob("*.safetensors"))
    folder = path if plain else directory.model_folder(path)
    own = hub_layout.read_json(folder / "config.json").get("model_type") == "sightline"
    parts = hub_layout.read_json(folder / INDEX)["metadata"]["parts"] if own else {}
    return Ingredient(folder=folder, slots=tensor_slots(folder), parts=parts)


def average(folders: Sequence[Path], out: Path, weights: Sequence[float] | None = None, parts: Sequence[str] = (), base: Path | None = None) -> Mixed:
    """The weighted mean of models, written into the existing folder `out` (use `lineage.artifact`).

    `weights`: one number >= 0 each; default: all alike. `parts`: only tensors under these paths are mixed, all else is `base`'s, which is an ingredient only where `folders` names it too.
    """
    origin = open_ingredient(base) if base is not None else None
    opened = [open_ingredient(folder, origin) for folder in folders]
    own = [float(weight) for weight in weights] if weights is not None else [1.0] * len(opened)
    if parts and origin is None:
        raise Refused(
            Problem(
                code="train/soup-base",
                place="base",
                found=f"parts {', '.join(parts)} without a base",
                allowed="the model that gives all else",
                fix="--base MODEL",
            )
        )
    if parts and origin is not None:
        return mix([origin, *opened], out, {"": [1.0, *(0.0 for _ in own)], **{part: [0.0, *own] for part in parts}})
    return mix(opened, out, {"": own})


def mix(ingredients: Sequence[Ingredient], out: Path, shares: Mapping[str, Sequence[float]]) -> Mixed:
    """Write the mean of models into an existing folder. `shares`: path -> a weight for each ingredient; the longest path that leads to a tensor decides, the empty path is all the rest.

    The first ingredient gives names, settings and tokenizer. Raises Refused, before a byte is written, with every difference that forbids mixing.
    """
    plan = _Plan(ingredients, shares)
    plan.check()
    first = ingredients[0]
    parts = dict.fromkeys(first.parts, "")
    linked = []
    for part in parts:
        giver = plan.unchanged(part)
        if giver is not None:
            parts[part] = giver.parts[part]
            linked.append(part)
            for file in sorted({slot.file for name, slot in giver.slots.items() if giver.part_of(name) == part}):
                _link(file, out / file.name)
    weight_map = {name: plan.giver(name).slots[name].file.name for name in first.slots}
    digests: dict[str, dict[str, str]] = {part: {} for part in parts}
    with Reader() as reader, ThreadPoolExecutor(_THREADS) as pool:
        for source in ingredients:
            for slot in source.slots.values():
                reader.open(slot.file)
        plan.compare_whole_numbers(reader)
        for file in sorted(set(weight_map.values())):
            if (out / file).exists():
                continue
            tensors = {name: plan.kind(name) for name, own in weight_map.items() if own == file}
            with written(out / file, tensors) as stream:
                for name in in_file_order(tensors):
                    digest = _Digest(*tensors[name]) if first.parts else None
                    for raw in plan.stream(name, reader, pool):
                        stream.write(raw)
                        if digest is not None:
                            digest.add(raw)
                    if digest is not None:
                        part = first.part_of(name)
                        digests[part][name.removeprefix(part + ".")] = digest.value()
    parts |= {part: sha256_json(own) for part, own in digests.items() if part not in linked}
    _copy_rest(first.folder, out, weight_map, parts)
    averaged = [name for name in weight_map if first.part_of(name) not in linked]
    return Mixed(
        weights=directory.weights_id(parts) if parts else "",
        parts=parts,
        tensors=len(averaged),
        linked=tuple(linked),
        read=sum(source.slots[name].stop - source.slots[name].start for name in averaged for source, _ in plan.donors(name)),
    )


class _Digest:
    """`directory.tensor_digest` of a tensor that comes in slices."""

    def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
        self.dtype = dtype
        name = "float32" if dtype in FLOATS else "bool" if dtype == "BOOL" else dtype.replace("U", "uint").replace("I", "int")
        self.digest = hashlib.sha256(f"torch.{name}{shape}".encode())

    def add(self, raw: np.ndarray) -> None:
        self.digest.update(memoryview(numbers(raw, self.dtype).astype("<f4", copy=False) if self.dtype in FLOATS else raw))  # pyright: ignore[reportArgumentType]

    def value(self) -> str:
        return self.digest.hexdigest()


class _Plan:
    """Who gives how much to which tensor."""

    def __init__(self, ingredients: Sequence[Ingredient], shares: Mapping[str, Sequence[float]]) -> None:
        self.ingredients, self.shares = ingredients, shares
        self._unchanged: dict[str, Ingredient | None] = {}
        problems = []
        if not ingredients:
            problems.append(Problem(code="train/soup-empty", place="ingredients", found="none", allowed="at least one model", fix="name models"))
        for path, own in shares.items():
            if len(own) != len(ingredients) or any(not np.isfinite(weight) or weight < 0 for weight in own) or not sum(own) > 0:
                said = f"{len(ingredients)} numbers from 0, not all 0"
                problems.append(
                    Problem(code="train/soup-weights", place=path or "weights", found=str(list(own)), allowed=said, fix="give one weight to each model")
                )
            if path and ingredients and not any(_under(name, path) for name in ingredients[0].slots):
                names = list(ingredients[0].parts) or sorted({name.partition(".")[0] for name in ingredients[0].slots})
                fix = nearest(path, names) or "name a part, or a path of its tensors"
                problems.append(
                    Problem(
                        code="model/no-such-path", place=str(ingredients[0].folder), found=f"no tensor at or under {path}", allowed=", ".join(names), fix=fix
                    )
                )
        if problems:
            raise Refused(problems)

    def donors(self, name: str) -> list[tuple[Ingredient, float]]:
        """Who gives to a tensor, and how much."""
        path = max((path for path in self.shares if not path or _under(name, path)), key=len)
        return [(source, weight) for source, weight in zip(self.ingredients, self.shares[path], strict=True) if weight > 0]

    def giver(self, name: str) -> Ingredient:
        """Whose file layout a tensor has: the first ingredient's, or that of the model whose part is taken over as it is."""
        return self.unchanged(self.ingredients[0].part_of(name)) or self.ingredients[0]

    def unchanged(self, part: str) -> Ingredient | None:
        """The ingredient whose files of a part can be taken: all who give to it have the same content and types."""
        if part not in self._unchanged:
            self._unchanged[part] = self._taken(part) if part else None
        return self._unchanged[part]

    def _taken(self, part: str) -> Ingredient | None:
        names = [name for name in self.ingredients[0].slots if self.ingredients[0].part_of(name) == part]
        donors = list({id(source): source for name in names for source, _ in self.donors(name)}.values())
        same = len({(source.parts.get(part), tuple(source.slots[name].dtype for name in names)) for source in donors}) == 1
        return donors[0] if same and all(source.adapter is None for source in donors) else None

    def kind(self, name: str) -> tuple[str, tuple[int, ...]]:
        """dtype and shape of a tensor in the soup."""
        return widest([source.slots[name].dtype for source, _ in self.donors(name)]), self.ingredients[0].slots[name].shape

    def check(self) -> None:
        """Refused with every difference of names, shapes, sorts of numbers, settings and tokenizers between models that give to the same tensors."""
        problems: list[Problem] = []
        first = self.ingredients[0]
        for number, source in enumerate(self.ingredients):
            paths = [path for path, own in self.shares.items() if own[number] > 0]
            if source is first or not paths:
                continue
            problems += _settings_differ(first, source, paths)
            mine = {name for name in first.slots if any(giver is source for giver, _ in self.donors(name))}
            theirs = {name for name in source.slots if name not in first.slots and any(not path or _under(name, path) for path in paths)}
            place = str(source.folder)
            for name in sorted(mine - source.slots.keys()):
                fix = nearest(name, _alike(name, theirs)) or "mix models of the same architecture"
                problems.append(
                    Problem(code="train/soup-missing", place=f"{place}:{name}", found="no such tensor", allowed=f"shape {first.slots[name].shape}", fix=fix)
                )
            for name in sorted(theirs):
                fix = nearest(name, _alike(name, first.slots.keys() - source.slots.keys())) or "mix models of the same architecture"
                problems.append(
                    Problem(code="train/soup-strange", place=f"{place}:{name}", found="a tensor that the first model lacks", allowed=str(first.folder), fix=fix)
                )
            for name in sorted(mine & source.slots.keys()):
                one, other = first.slots[name], source.slots[name]
                if one.shape != other.shape or (one.dtype in WHOLE) != (other.dtype in WHOLE):
                    said = f"{one.dtype} of shape {one.shape}"
                    fix = "mix models of the same architecture"
                    problems.append(
                        Problem(code="train/soup-shape", place=f"{place}:{name}", found=f"{other.dtype} of shape {other.shape}", allowed=said, fix=fix)
                    )
        if problems:
            raise Refused(problems)

    def compare_whole_numbers(self, reader: Reader) -> None:
        """Refused with every tensor of whole numbers that is not the same in all who give to it."""
        problems = []
        one, other = np.empty(8 * CHUNK, np.uint8), np.empty(8 * CHUNK, np.uint8)
        for name, slot in self.ingredients[0].slots.items():
            donors = [source for source, _ in self.donors(name)] if slot.dtype in WHOLE else []
            for source in donors[1:]:
                left, right = donors[0].slots[name], source.slots[name]
                step = len(one) // WHOLE[left.dtype]
                starts = range(0, left.count, step)
                if left.dtype != right.dtype or any(not np.array_equal(reader.read(left, at, one), reader.read(right, at, other)) for at in starts):
                    problems.append(
                        Problem(
                            code="train/soup-whole-numbers",
                            place=f"{source.folder}:{name}",
                            found=f"{right.dtype} numbers that differ from those of {donors[0].folder}",
                            allowed="equal ones: a mean of counts or places means nothing",
                            fix="mix models that agree in it, or leave its part out (parts)",
                        )
                    )
        if problems:
            raise Refused(problems)

    def stream(self, name: str, reader: Reader, pool: ThreadPoolExecutor) -> Iterator[np.ndarray]:
        """Bytes of the mixed tensor, slice by slice, computed a few slices ahead."""
        dtype, shape = self.kind(name)
        donors = self.donors(name)
        count = int(np.prod(shape, dtype=np.int64))
        waiting: deque[Future[np.ndarray]] = deque()
        for first in range(0, count, CHUNK):
            waiting.append(pool.submit(_slice, name, donors, dtype, first, min(CHUNK, count - first), reader))
            if len(waiting) > _THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _slice(name: str, donors: Sequence[tuple[Ingredient, float]], dtype: str, first: int, count: int, reader: Reader) -> np.ndarray:
    """Bytes of `count` numbers of a tensor's mean."""
    slots = [source.slots[name] for source, _ in donors]
    if dtype in WHOLE:
        return reader.read(slots[0], first, np.empty(count * WHOLE[dtype], np.uint8))
    if len(donors) == 1 and slots[0].dtype == dtype and donors[0][0].adapter is None:
        return reader.read(slots[0], first, np.empty(count * FLOATS[dtype], np.uint8))
    total = np.zeros(count)
    buffer = np.empty(count * 8, np.uint8)
    alike = len({weight for _, weight in donors}) == 1
    for (source, weight), slot in zip(donors, slots, strict=True):
        values = numbers(reader.read(slot, first, buffer[: count * FLOATS[slot.dtype]]), slot.dtype)
        if source.adapter is not None:
            values = source.adapter.added(name, slot.shape, first, values)
        total += values if alike else values.astype(np.float64) * weight
    total /= len(donors) if alike else sum(weight for _, weight in donors)
    if np.isnan(total.sum()) and np.isnan(total).any():
        where = ", ".join(str(source.folder) for source, _ in donors)
        raise Refused(
            Problem(
                code="train/soup-no-number",
                place=name,
                found=f"its mean holds NaN, in {where}",
                allowed="numbers",
                fix="find the model that holds it with `sightline verify`, leave it out",
            )
        )
    return rounded(total, dtype)


def _under(name: str, path: str) -> bool:
    return name == path or name.startswith(path + ".")


def _alike(name: str, names: set[str]) -> list[str]:
    """Names that may be meant: those that end alike, so that long lists of differences are told quickly."""
    ending = name.rsplit(".", 1)[-1]
    return sorted(other for other in names if other.rsplit(".", 1)[-1] == ending)[:50]


def _settings_differ(first: Ingredient, source: Ingredient, paths: Sequence[str]) -> Iterator[Problem]:
    """Differences of config.json and tokenizer.json that make a mean meaningless; of a model directory, only of the parts that are mixed."""
    ours, theirs = (_flat(hub_layout.read_json(one.folder / "config.json")) for one in (first, source))
    for key in sorted(ours.keys() | theirs.keys()):
        part = key.removeprefix("parts.") if key.startswith("parts.") else None
        matters = part is None or any(not path or _under(part, path) or _under(path, first.part_of(part + ".x") or part) for path in paths)
        if matters and key.rsplit(".", 1)[-1] not in _NO_MATTER and ours.get(key) != theirs.get(key):
            yield Problem(
                code="train/soup-config",
                place=f"{source.folder / 'config.json'}:{key}",
                found=json.dumps(theirs.get(key)),
                allowed=json.dumps(ours.get(key)),
                fix="mix models of the same architecture and chat format",
            )
    tokenizers = [sha256_file(one.folder / "tokenizer.json") if (one.folder / "tokenizer.json").is_file() else "" for one in (first, source)]
    if tokenizers[0] != tokenizers[1]:
        place = str(source.folder / "tokenizer.json")
        yield Problem(
            code="train/soup-tokenizer",
            place=place,
            found="another tokenizer",
            allowed=str(first.folder / "tokenizer.json"),
            fix="mix models with one tokenizer",
        )


def _flat(value: object, path: str = "") -> dict[str, object]:
    """Leaves of a JSON tree by dotted path."""
    if isinstance(value, dict) and value:
        return {key: leaf for name, own in value.items() for key, leaf in _flat(own, f"{path}.{name}" if path else str(name)).items()}
    return {path: value}


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system: a copy is the same content
        shutil.copyfile(source, target)


def _copy_rest(source: Path, out: Path, weight_map: dict[str, str], parts: dict[str, str]) -> None:
    """Settings, tokenizer and what else makes a folder a model; not its lineage, golden requests or adapters, which are another's."""
    for path in sorted(source.iterdir()):
        if path.is_dir() and path.name in ("native", "side"):
            shutil.copytree(path, out / path.name)
        elif path.is_file() and path.suffix not in (".safetensors", ".bin", ".pt", ".pth") and path.name not in _NOT_COPIED:
            shutil.copyfile(path, out / path.name)
    if parts or (source / INDEX).is_file():
        headers = {file: read_header(out / file) for file in set(weight_map.values())}
        total = sum(headers[file][name].stop - headers[file][name].start for name, file in weight_map.items())
        write_json(out / INDEX, {"metadata": {"total_size": total, **({"parts": parts} if parts else {})}, "weight_map": dict(sorted(weight_map.items()))})

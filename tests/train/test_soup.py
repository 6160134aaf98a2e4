"""Soup arithmetic: the correctly rounded mean in slices, whatever the files look like; what cannot be mixed is refused in full; memory is bounded."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from sightline.errors import Refused
from sightline.train import soup
from sightline.train.soup import average, mix, open_ingredient
from sightline.train.tensor_files import in_file_order, numbers, read_header, rounded, tensor_slots, widest, written

Tensors = Mapping[str, Tensor]


def checkpoint(folder: Path, tensors: Tensors, shards: int = 1, **config: object) -> Path:
    """A folder in the Hugging Face layout."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "made", **config}))
    (folder / "tokenizer.json").write_text("{}")
    names = list(tensors)
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    files = {f"model-{number + 1:05d}-of-{shards:05d}.safetensors": names[number::shards] for number in range(shards)}
    for file, own in files.items():
        save_file({name: tensors[name] for name in own}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, own in files.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def made(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {f"layer.{k}.weight": torch.randn(7, 5 + k, generator=generator).to(dtype) for k in range(3)}
    return {
        **tensors,
        "norm.weight": torch.randn(6, generator=generator),
        "steps": torch.tensor([3, 4]),
        "empty": torch.zeros(0, 4),
        "scale": torch.tensor(0.5 + seed),
    }


def mixed(folders: Sequence[Path], out: Path, **said: object) -> dict[str, Tensor]:
    out.mkdir()
    average(folders, out, **said)  # pyright: ignore[reportArgumentType]
    return {name: tensor for file in sorted(out.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def exact(several: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """The mean in float64, rounded to float32, then to the type of the first."""
    weight = torch.tensor(weights or [1.0] * len(several), dtype=torch.float64).reshape(-1, *[1] * several[0].dim())
    return ((torch.stack([one.double() for one in several]) * weight).sum(0) / weight.sum()).float().to(several[0].dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shards", [1, 3])
def test_the_mean_is_rounded_once(dtype: torch.dtype, shards: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soup, "CHUNK", 4)  # many slices of every tensor
    models = [made(seed, dtype) for seed in range(5)]
    folders = [checkpoint(tmp_path / str(number), tensors, shards) for number, tensors in enumerate(models)]
    found = mixed(folders, tmp_path / "out")
    assert found.keys() == models[0].keys()
    for name, tensor in found.items():
        wanted = models[0][name] if name == "steps" else exact([model[name] for model in models])
        assert tensor.dtype == wanted.dtype and torch.equal(tensor, wanted), name
    backwards = mixed(folders[::-1], tmp_path / "again")
    assert all(torch.equal(found[name], backwards[name]) for name in found)
    assert (tmp_path / "out" / "config.json").read_bytes() == (folders[0] / "config.json").read_bytes()
    assert tensor_slots(tmp_path / "out").keys() == models[0].keys()


def test_bfloat16_is_not_summed_in_bfloat16(tmp_path: Path) -> None:
    folders = [checkpoint(tmp_path / str(k), {"w": torch.tensor([k / 10]).bfloat16()}) for k in range(1, 9)]
    [value] = mixed(folders, tmp_path / "out").values()
    narrow = torch.zeros(()).bfloat16()
    for k in range(1, 9):
        narrow += torch.tensor(k / 10).bfloat16()
    assert (value.item(), narrow.item() / 8) == (0.451171875, 0.44921875)


def test_one_model_or_equal_ones_come_out_as_they_went_in_byte_for_byte(tmp_path: Path) -> None:
    one, other = (checkpoint(tmp_path / name, made(1, torch.bfloat16)) for name in "ab")
    mixed([one], tmp_path / "alone")
    mixed([one, other, one], tmp_path / "thrice")
    want = (one / "model.safetensors").read_bytes()
    assert [(tmp_path / name / "model.safetensors").read_bytes() == want for name in ("alone", "thrice")] == [True, True]


def test_weights_parts_and_base(tmp_path: Path) -> None:
    models = [{"a.w": torch.randn(9), "b.w": torch.randn(9), "b.deep.w": torch.randn(3)} for _ in range(3)]
    folders = [checkpoint(tmp_path / str(number), tensors) for number, tensors in enumerate(models)]
    found = mixed(folders, tmp_path / "weighted", weights=[1, 2, 0.5])
    assert all(torch.equal(found[name], exact([model[name] for model in models], [1, 2, 0.5])) for name in found)
    found = mixed(folders[1:], tmp_path / "parts", parts=["b"], base=folders[0])
    assert torch.equal(found["a.w"], models[0]["a.w"])
    assert torch.equal(found["b.w"], exact([models[1]["b.w"], models[2]["b.w"]]))
    found = mixed(folders, tmp_path / "with-base", parts=["b.deep"], base=folders[0])
    assert torch.equal(found["b.w"], models[0]["b.w"])
    assert torch.equal(found["b.deep.w"], exact([model["b.deep.w"] for model in models]))
    (tmp_path / "path").mkdir()
    mix([open_ingredient(folder) for folder in folders], tmp_path / "path", {"": [0, 1, 0], "a": [1, 0, 1], "b.deep": [0, 0, 1]})
    found = load_file(tmp_path / "path" / "model.safetensors")
    assert torch.equal(found["b.w"], models[1]["b.w"]) and torch.equal(found["b.deep.w"], models[2]["b.deep.w"])
    assert torch.equal(found["a.w"], exact([models[0]["a.w"], models[2]["a.w"]]))


def test_types_that_differ_meet_in_the_wider_one(tmp_path: Path) -> None:
    assert [widest(["F16", "F16"]), widest(["BF16", "F16"]), widest(["F32", "BF16"]), widest(["F64", "F16"])] == ["F16", "F32", "F32", "F64"]
    narrow, wide = torch.randn(33).bfloat16(), torch.randn(33)
    found = mixed([checkpoint(tmp_path / "a", {"w": narrow}), checkpoint(tmp_path / "b", {"w": wide})], tmp_path / "out")
    assert torch.equal(found["w"], exact([wide, narrow.float()])) and found["w"].dtype == torch.float32


def test_every_difference_is_told_at_once_with_the_nearest_name(tmp_path: Path) -> None:
    good = {"block.0.weight": torch.ones(2, 3), "block.1.weight": torch.ones(3), "head.weight": torch.ones(4), "count": torch.tensor([1])}
    bad = {"block.0.weight": torch.ones(3, 2), "blok.1.weight": torch.ones(3), "head.weight": torch.tensor([1, 2, 3, 4]), "count": torch.tensor([1])}
    folders = [checkpoint(tmp_path / "good", good, hidden_size=3), checkpoint(tmp_path / "bad", bad, hidden_size=4, dtype="float16")]
    (folders[1] / "tokenizer.json").write_text('{"other": 1}')
    (tmp_path / "out").mkdir()
    with pytest.raises(Refused) as refused:
        average(folders, tmp_path / "out")
    found = sorted((problem.code, problem.place.rpartition(":")[2].rpartition("/")[2]) for problem in refused.value.problems)
    assert found == [
        ("train/soup-config", "hidden_size"),
        ("train/soup-missing", "block.1.weight"),
        ("train/soup-shape", "block.0.weight"),
        ("train/soup-shape", "head.weight"),
        ("train/soup-strange", "blok.1.weight"),
        ("train/soup-tokenizer", "tokenizer.json"),
    ]
    missing = next(problem for problem in refused.value.problems if problem.code == "train/soup-missing")
    assert missing.fix == "did you mean 'blok.1.weight'?" and "(3,)" in missing.allowed
    assert list((tmp_path / "out").iterdir()) == []


def test_whole_numbers_must_agree_and_nan_is_named(tmp_path: Path) -> None:
    folders = [checkpoint(tmp_path / str(k), {"steps": torch.arange(9) + (k == 2), "w": torch.ones(3)}) for k in range(3)]
    (tmp_path / "out").mkdir()
    with pytest.raises(Refused, match=r"train/soup-whole-numbers at .*2:steps"):
        average(folders, tmp_path / "out")
    endless = [checkpoint(tmp_path / f"inf{k}", {"mask": torch.full((2,), -torch.inf)}) for k in range(2)]
    assert mixed(endless, tmp_path / "masks")["mask"].isinf().all()
    with pytest.raises(Refused, match="train/soup-no-number at w"):
        mixed([checkpoint(tmp_path / "nan", {"w": torch.tensor([1, torch.nan])}), checkpoint(tmp_path / "one", {"w": torch.ones(2)})], tmp_path / "none")


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")]])
def test_weights_that_mean_nothing_are_refused(weights: list[float], tmp_path: Path) -> None:
    folders = [checkpoint(tmp_path / str(k), {"w": torch.ones(3)}) for k in range(2)]
    with pytest.raises(Refused, match="train/soup-weights"):
        average(folders, tmp_path, weights)
    with pytest.raises(Refused, match="model/no-such-path"):
        average(folders, tmp_path, parts=["language"], base=folders[0])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        (2).to_bytes(8, "little") + b"[]",
        (60).to_bytes(8, "little") + b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}      ',
        (61).to_bytes(8, "little") + b'{"w":{"dtype":"F32","shape":[-2],"data_offsets":[8,0]}}      ' + b"0" * 8,
        (63).to_bytes(8, "little") + b'{"w":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}     ' + b"0" * 8,
    ],
)
def test_broken_files_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(Refused, match="model/broken-weights"):
        read_header(tmp_path / "x.safetensors")


SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=6),
        st.tuples(st.sampled_from(["F64", "F32", "F16", "BF16", "I64", "U8", "BOOL"]), SHAPES),
        min_size=1,
        max_size=5,
    )
)
def test_written_files_are_those_of_the_published_writer(tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    tensors.pop("__metadata__", None)
    folder = tmp_path_factory.mktemp("files")
    types = {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I64": torch.int64,
        "U8": torch.uint8,
        "BOOL": torch.bool,
    }
    values = {name: torch.ones(shape).to(types[dtype]) for name, (dtype, shape) in tensors.items()}
    save_file(values, folder / "theirs.safetensors", metadata={"format": "pt"})
    with written(folder / "ours.safetensors", tensors) as stream:
        for name in in_file_order(tensors):
            stream.write(values[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    ours, theirs = load_file(folder / "ours.safetensors"), load_file(folder / "theirs.safetensors")
    assert ours.keys() == theirs.keys() == read_header(folder / "ours.safetensors").keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
    assert (folder / "ours.safetensors").stat().st_size == (folder / "theirs.safetensors").stat().st_size


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20),
    st.sampled_from([("BF16", torch.bfloat16), ("F16", torch.float16), ("F32", torch.float32)]),
)
def test_rounding_is_that_of_torch(values: list[float], kind: tuple[str, torch.dtype]) -> None:
    name, dtype = kind
    with np.errstate(over="ignore"):
        raw = rounded(np.array(values), name)
    wanted = torch.tensor(values, dtype=torch.float32).to(dtype)
    assert torch.equal(torch.from_numpy(raw.copy()).view(dtype), wanted)
    assert torch.equal(torch.from_numpy(numbers(raw, name).astype(np.float32)), wanted.float())


def test_memory_does_not_grow_with_the_models(tmp_path: Path) -> None:
    """Numbers held at once are those of a few slices: the largest array that is made is a slice, whatever the tensor."""
    size = 3 * soup.CHUNK + 17
    folders = [checkpoint(tmp_path / str(k), {"w": torch.full((size,), float(k))}) for k in range(3)]
    largest = 0
    real = np.zeros

    def zeros(count: int, *said: object) -> np.ndarray:
        nonlocal largest
        largest = max(largest, count)
        return real(count, *said)  # pyright: ignore[reportCallIssue, reportArgumentType]

    soup.np.zeros, before = zeros, soup.np.zeros  # pyright: ignore[reportAttributeAccessIssue]
    try:
        found = mixed(folders, tmp_path / "out")
    finally:
        soup.np.zeros = before  # pyright: ignore[reportAttributeAccessIssue]
    assert largest == soup.CHUNK and torch.equal(found["w"], torch.ones(size))
    assert os.stat(tmp_path / "out" / "model.safetensors").st_size == os.stat(folders[0] / "model.safetensors").st_size

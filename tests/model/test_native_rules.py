"""Rules between published tensors and ours: every change is undone bit for bit, and names are taken by one rule or listed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sightline.errors import Refused
from sightline.model.native.key_rules import (
    Change,
    Pad,
    Permute,
    Reshape,
    Reversed,
    Rule,
    Same,
    Split,
    Stack,
    Transpose,
    moves_in,
    moves_out,
    rename,
    to_ours,
    to_theirs,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64)


def numbered(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)


def test_numbers_go_where_they_belong() -> None:
    whole = numbered(6, 2)
    assert [part[:, 0].tolist() for part in Split(parts=3).to_ours([whole])] == [[0, 2], [4, 6], [8, 10]]
    assert [part.shape[0] for part in Split(sizes=(4, 1, 1)).to_ours([whole])] == [4, 1, 1]
    assert torch.equal(Stack().to_ours([whole, whole + 1])[0][1], whole + 1)
    assert torch.equal(Transpose().to_ours([whole])[0], whole.T)
    assert torch.equal(Transpose(axes=(2, 0, 1)).to_ours([numbered(2, 3, 4)])[0], numbered(2, 3, 4).permute(2, 0, 1))
    assert Permute(order=(2, 0, 1)).to_ours([numbered(3, 1)])[0][:, 0].tolist() == [2, 0, 1]
    assert Pad(rows=2).to_ours([numbered(2, 2)])[0].tolist() == [[0, 1], [2, 3], [0, 0], [0, 0]]
    assert Reshape(theirs=(1,), ours=()).to_ours([numbered(1)])[0].shape == ()
    assert torch.equal(Reversed(Split(parts=2)).to_ours([whole[:3], whole[3:]])[0], whole)


@st.composite
def changes(draw: st.DrawFn) -> tuple[Change, list[Tensor]]:
    """A change, and published tensors that it takes."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(1, 4), min_size=2, max_size=3))
    dim = draw(st.integers(0, len(shape) - 1))
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    name = draw(st.sampled_from(("same", "split", "parts", "stack", "transpose", "permute", "reshape", "pad", "join")))
    if name in ("split", "parts", "join"):
        equal = name == "parts"
        shape[dim] = sizes[0] * len(sizes) if equal else sum(sizes)
        whole = numbered(*shape, dtype=dtype)
        change = Split(parts=len(sizes), dim=dim) if equal else Split(sizes=tuple(sizes), dim=dim)
        return (Reversed(change), change.to_ours([whole])) if name == "join" else (change, [whole])
    tensor = numbered(*shape, dtype=dtype)
    if name == "stack":
        return Stack(dim=dim), [tensor + number for number in range(len(sizes))]
    if name == "transpose":
        return Transpose(axes=tuple(draw(st.permutations(range(len(shape)))))), [tensor]
    if name == "permute":
        return Permute(order=tuple(draw(st.permutations(range(shape[dim])))), dim=dim), [tensor]
    if name == "reshape":
        return Reshape(theirs=tuple(shape), ours=(tensor.numel(),)), [tensor]
    return (Pad(rows=sizes[0], dim=dim) if name == "pad" else Same()), [tensor]


@settings(deadline=None)
@given(changes())
def test_every_change_is_undone_bit_for_bit(made: tuple[Change, list[Tensor]]) -> None:
    change, theirs = made
    back = change.to_theirs(change.to_ours(theirs))
    assert [(tensor.dtype, tensor.shape) for tensor in back] == [(tensor.dtype, tensor.shape) for tensor in theirs]
    assert all(torch.equal(before, after) for before, after in zip(theirs, back, strict=True))


@settings(deadline=None)
@given(changes())
def test_shapes_are_known_without_numbers(made: tuple[Change, list[Tensor]]) -> None:
    change, theirs = made
    without = change.to_theirs([tensor.to("meta") for tensor in change.to_ours(theirs)])
    assert [tensor.shape for tensor in without] == [tensor.shape for tensor in theirs]


def test_rows_that_are_no_longer_zero_are_not_cut() -> None:
    with pytest.raises(ValueError, match="last 2 rows hold numbers"):
        Pad(rows=2).to_theirs([torch.ones(4, 2)])


RULES = [
    rename("encoder.*", "tower.*", "model.tower.*", "tower.inner.*"),
    rename("blocks.#.q", "layers.#.a"),
    Rule(theirs=(("fused.#",),), ours=("k.#", "v.#"), change=Split(parts=2)),
]


@pytest.mark.parametrize("head", ["tower.", "model.tower.", "tower.inner."])
def test_names_are_read_in_every_spelling_and_come_back_in_their_own(head: str) -> None:
    names = [f"{head}conv.weight", "layers.0.a", "layers.11.a", "fused.3"]
    tensors = {name: numbered(4, number + 1) for number, name in enumerate(names)}
    moves = moves_in(RULES, names, "here")
    ours = to_ours(moves, tensors, "here")
    assert set(ours) == {"encoder.conv.weight", "blocks.0.q", "blocks.11.q", "k.3", "v.3"}
    back = to_theirs(moves, ours, "here")
    assert back.keys() == tensors.keys() and all(torch.equal(back[name], tensors[name]) for name in names)


def test_without_a_checkpoint_the_first_spelling_is_written() -> None:
    found = moves_out(RULES, ["encoder.conv.weight", "blocks.2.q", "k.0", "v.0"], "here")
    assert {name for move in found for name in move.theirs} == {"tower.conv.weight", "layers.2.a", "fused.0"}


def test_all_names_that_do_not_fit_are_listed() -> None:
    rules = [*RULES, rename("other.*", "layers.*")]
    names = ["tower.w", "model.tower.w", "layers.0.a", "stray.one", "stray.two"]
    with pytest.raises(Refused) as refused:
        moves_in(rules, names, "FOLDER")
    told = [problem.found for problem in refused.value.problems]
    assert told == [
        "2 tensors that no rule takes: stray.one, stray.two",
        "1 tensors that several rules take: layers.0.a",
        "1 tensors that are two spellings of one tensor: model.tower.w and tower.w",
    ]
    assert {(problem.code, problem.place) for problem in refused.value.problems} == {("model/native-keys", "FOLDER")}


def test_absent_counterparts_are_listed() -> None:
    with pytest.raises(Refused, match=r"1 tensors that a rule needs beside others are absent: v\.0"):
        moves_out(RULES, ["k.0"], "here")


def test_two_tensors_do_not_become_one() -> None:
    with pytest.raises(Refused, match=r"1 tensors that several tensors would become: x"):
        moves_in([rename("x", "a"), rename("x", "b")], ["a", "b"], "here")


def test_shapes_that_a_rule_cannot_change_are_listed() -> None:
    moves = moves_in(RULES, ["fused.0", "fused.1"], "here")
    with pytest.raises(Refused) as refused:
        to_ours(moves, {"fused.0": torch.zeros(3), "fused.1": torch.zeros(5)}, "here")
    assert [problem.found for problem in refused.value.problems] == ["fused.0 (3,)", "fused.1 (5,)"]
    assert "3 along dimension 0 is not the sum of (1, 1)" in refused.value.problems[0].allowed

"""The attention pattern: causal inside a segment, trunk and own branch only, padding reads itself, and eager masks add."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from sightline.model.attention import allowed, backend_mask
from sightline.model.batch import Stream


def stream(segments: list[list[int]], branches: list[list[int]]) -> Stream:
    """A stream of which only segments and branches matter."""
    found, none = torch.tensor(segments, dtype=torch.int32), torch.zeros(0, dtype=torch.int64)
    ids = torch.zeros_like(found, dtype=torch.int64)
    return Stream(ids=ids, positions=ids, segments=found, branches=torch.tensor(branches, dtype=torch.int32), slots=none, sources=none)


def rows(pattern: torch.Tensor) -> list[str]:
    return ["".join("x" if value else "." for value in row) for row in pattern.tolist()]


def test_segments_by_hand() -> None:
    [pattern] = allowed(stream([[1, 1, 2, 2, 2, 0]], [[0] * 6]))
    assert rows(pattern) == ["x.....", "xx....", "..x...", "..xx..", "..xxx.", ".....x"]


def test_branches_by_hand() -> None:
    [pattern] = allowed(stream([[1, 1, 1, 1, 1, 1, 2]], [[0, 0, 1, 1, 2, 2, 0]]))
    assert rows(pattern) == ["x......", "xx.....", "xxx....", "xxxx...", "xx..x..", "xx..xx.", "......x"]


@given(st.lists(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=8), min_size=1, max_size=3))
def test_every_pair_of_places_follows_the_rule(bins: list[list[tuple[int, int]]]) -> None:
    width = max(map(len, bins)) + 1
    segments = [sorted(segment for segment, _ in one) + [0] * (width - len(one)) for one in bins]
    branches = [[branch for _, branch in one] + [0] * (width - len(one)) for one in bins]
    pattern = allowed(stream(segments, branches))
    assert pattern.shape == (len(bins), width, width)
    for b in range(len(bins)):
        for q in range(width):
            for k in range(width):
                same = segments[b][q] == segments[b][k] != 0
                expected = q == k or (k < q and same and branches[b][k] in (0, branches[b][q]))
                assert bool(pattern[b, q, k]) == expected


def test_masks_of_the_backends_say_the_same() -> None:
    pattern = allowed(stream([[1, 1, 0]], [[0, 0, 0]]))
    assert backend_mask(pattern, "sdpa", torch.float32).dtype == torch.bool
    for dtype in (torch.float32, torch.bfloat16):
        additive = backend_mask(pattern, "eager", dtype)
        assert additive.shape == (1, 1, 3, 3) and additive.dtype == dtype
        assert torch.equal(additive == 0, pattern[:, None]) and torch.equal(additive == torch.finfo(dtype).min, ~pattern[:, None])

"""How much of each data set a stage sees: shares by size (proportional, equal, square root, temperature) or as said, bounded by rules, and how often each row comes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from sightline.errors import Problem, Refused
from sightline.kinds import Config
from sightline.samples.sample import Sample
from sightline.samples.store import Store

Method = Literal["proportional", "equal", "square-root", "temperature", "explicit"]
_EXPONENTS: dict[str, float] = {"proportional": 1.0, "equal": 0.0, "square-root": 0.5}
_TOLERANCE = 1e-12
_MEASURED = 200
_SLACK = 1e-6
"""Bounds are met by steps that come ever closer; this close is met."""


class MixConfig(Config):
    """Shares of a stage's data sets. Weights of the stage's `data` multiply the shares by size; with `explicit` they are the shares."""

    method: Method = "proportional"
    """Share of a set with S rows: S, 1, the square root of S (Dai et al. 2023, section 2.4), S^(1/temperature), or only its weight."""
    temperature: float = Field(default=2.0, gt=0)
    """For `temperature`: 1 is proportional, 2 the square root, large is equal."""
    rows: int | None = Field(default=None, ge=1)
    """Rows of an epoch; as many as all sets have together when absent."""
    tokens: int | None = Field(default=None, ge=1)
    """Tokens of an epoch instead of rows: sets are measured on a sample of their rows."""
    most: dict[str, float] = Field(default_factory=dict)
    """Largest share of a set or group; what is cut goes to the others in proportion. `written` is the share of rows whose text a model wrote."""
    not_above: dict[str, str] = Field(default_factory=dict)
    """Set or group -> set or group: the first may not have a larger share than the second (generic pictures: domain)."""
    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict, strict=False)
    """Names for several sets together."""

    def unknown(self, names: Iterable[str]) -> list[str]:
        """What bounds and groups name that is neither one of the sets `names`, nor a group, nor `written`."""
        known = {*names, *self.groups, "written"}
        members = (name for group in self.groups.values() for name in group)
        return sorted({*self.most, *self.not_above, *self.not_above.values(), *members} - known)


@dataclass(frozen=True, kw_only=True)
class SetSize:
    """What mixing knows of a set."""

    name: str
    rows: int
    written: float = 0.0
    """Share of its rows whose text a model wrote, 0..1."""
    tokens: float = 1.0
    """Mean tokens of a row."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One set of a mixture: its share of an epoch, the rows that are visited, and how often a row comes (visits / rows)."""

    name: str
    rows: int
    share: float
    visits: int
    times: float


def size_of(name: str, store: Store, config: MixConfig, measure: Callable[[Sample], int] | None = None) -> SetSize:
    """What mixing must know of a store: its rows, and only where `config` asks for it the share that models wrote and the mean tokens of a row (of 200 at most, spread evenly)."""
    kept = store.kept
    written = sum(store[int(row)].origin.maker.startswith("model:") for row in kept) / max(1, len(kept)) if "written" in config.most else 0.0
    measured = kept[np.unique(np.linspace(0, len(kept) - 1, min(_MEASURED, len(kept))).astype(int))] if config.tokens and measure and len(kept) else []
    tokens = sum(measure(store[int(row)]) for row in measured) / len(measured) if measure and len(measured) else 1.0
    return SetSize(name=name, rows=len(kept), written=written, tokens=tokens)


def shares(sizes: Sequence[SetSize], config: MixConfig, weights: Mapping[str, float] | None = None) -> list[float]:
    """Share of every set, adding up to 1: by method and weights, then cut until every bound holds. Refused when bounds cannot hold together, or name no set."""
    weights = weights or {}
    _known(sizes, config)
    exponent = _EXPONENTS.get(config.method, 1 / config.temperature)
    raw = [weights.get(size.name, 1.0) * (1.0 if config.method == "explicit" else size.rows**exponent) for size in sizes]
    total = sum(raw)
    if total <= 0:
        raise Refused(_problem("weights", f"weights that add up to {total:g}", "a sum above 0", "give at least one set a weight"))
    found = [value / total for value in raw]
    for _ in range(200):
        before = found
        for name, bound in _bounds(config, sizes, found):
            found = _cut(found, _part(name, config, sizes), bound, name)
        if max(abs(a - b) for a, b in zip(before, found, strict=True)) < _TOLERANCE:
            break
    if all(_counted(found, _part(name, config, sizes)) <= bound + _SLACK for name, bound in _bounds(config, sizes, found)):
        return found
    raise Refused(_problem("most, not_above", f"bounds {dict(config.most)} {dict(config.not_above)}", "bounds that can hold together", "loosen one of them"))


def _known(sizes: Sequence[SetSize], config: MixConfig) -> None:
    names = [size.name for size in sizes]
    unknown = config.unknown(names)
    if unknown:
        allowed = ", ".join(sorted({*names, *config.groups}))
        raise Refused([_problem(name, f"a bound or group of {name!r}", allowed, "name a data set of the stage, or a group") for name in unknown])


def _part(name: str, config: MixConfig, sizes: Sequence[SetSize]) -> list[float]:
    """How much of each set counts for a name: 1 for members, the written share for `written`."""
    if name == "written" and name not in config.groups:
        return [size.written for size in sizes]
    members = config.groups.get(name, (name,))
    return [float(size.name in members) for size in sizes]


def _counted(found: Sequence[float], part: Sequence[float]) -> float:
    return sum(share * of for share, of in zip(found, part, strict=True))


def _bounds(config: MixConfig, sizes: Sequence[SetSize], found: Sequence[float]) -> list[tuple[str, float]]:
    bounds = list(config.most.items())
    for low, high in config.not_above.items():
        of = {name: _counted(found, _part(name, config, sizes)) for name in (low, high)}
        if of[low] > of[high]:
            # what is cut goes to the others in proportion, so the bound moves while it is met: half way to where both are equal
            rest = 1 - of[low]
            bounds.append((low, of[high] / (rest + of[high]) if rest + of[high] > 0 else 0.0))
    return bounds


def _cut(found: list[float], part: Sequence[float], bound: float, name: str) -> list[float]:
    """Shares after scaling the counted parts down to `bound` and the others up."""
    counted = _counted(found, part)
    if counted <= bound + _TOLERANCE:
        return found
    free = sum(share * (of == 0) for share, of in zip(found, part, strict=True))
    inside = 1 - free
    if free <= 0:
        raise Refused(
            _problem(name, f"a share of {counted:.3f}, and nothing else in the mixture", f"at most {bound:g}", "add another set, or loosen the bound")
        )
    # sets that count in part are scaled whole: x of what they had such that x * counted / (x * inside + free) = bound
    scale = bound * free / (counted - bound * inside)
    scaled = [share * (scale if of else 1.0) for share, of in zip(found, part, strict=True)]
    total = sum(scaled)
    return [share / total for share in scaled]


def plan_mixture(sizes: Sequence[SetSize], config: MixConfig, weights: Mapping[str, float] | None = None) -> list[Planned]:
    """Visits of every set in one epoch: shares of `rows`, or of `tokens` divided by the mean row of the mixture; largest remainders get the rows that rounding leaves."""
    found = shares(sizes, config, weights)
    total = sum(size.rows for size in sizes)
    if config.tokens is not None:
        mean = sum(share * size.tokens for share, size in zip(found, sizes, strict=True))
        total = max(1, round(config.tokens / mean))
    total = config.rows or total
    exact = [share * total for share in found]
    visits = [math.floor(value + 1e-9) for value in exact]
    for place in sorted(range(len(sizes)), key=lambda place: (visits[place] - exact[place], place))[: total - sum(visits)]:
        visits[place] += 1
    return [
        Planned(name=size.name, rows=size.rows, share=share, visits=count, times=count / size.rows if size.rows else 0.0)
        for size, share, count in zip(sizes, found, visits, strict=True)
    ]


def _problem(place: str, found: str, allowed: str, fix: str) -> Problem:
    return Problem(code="data/mixture", place=f"mix: {place}", found=found, allowed=allowed, fix=fix)


def mixture_text(plan: Sequence[Planned]) -> str:
    """The plan as a table for people: how much of an epoch each set is, and how often each of its rows comes."""
    width = max(len(one.name) for one in plan)
    lines = [f"  {'data':<{width}} {'rows':>9} {'share':>7} {'visits':>9}  a row comes"]
    lines += [f"  {one.name:<{width}} {one.rows:>9,} {one.share:>7.1%} {one.visits:>9,}  {one.times:.2f} times" for one in plan]
    return "\n".join(lines)

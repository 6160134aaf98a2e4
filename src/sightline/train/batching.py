"""How the rows of an optimizer step become micro-batches: balanced by tokens, within a budget, the largest first; and whether their samples share a bin."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from sightline.errors import Problem, Refused
from sightline.model.assembly import ModelConfig
from sightline.model.packing import Encoded


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a row costs: tokens that a language model runs (decoder and memory), and crops that encoders run."""

    tokens: int
    crops: int

    @classmethod
    def of(cls, encoded: Encoded) -> Load:
        """The load of an encoded row."""
        memory = len(encoded.memory.ids) if encoded.memory is not None else 0
        return cls(tokens=encoded.length + memory, crops=sum(len(measure.tiling.crops) for measure in encoded.measures))


def balanced(loads: Sequence[Load], groups: int) -> list[list[int]]:
    """Row numbers in `groups` groups of about equal load, the largest group first, each ascending.

    Rows with pictures are dealt first, then those without: no group takes all pictures. Each row goes to the group with the fewest tokens, the longest first (Graham 1969: at most 4/3 of the best
    largest group), then to that with the fewest crops. Groups are empty only where there are fewer rows than groups.
    """
    heap = [(0, 0, group) for group in range(groups)]
    found: list[list[int]] = [[] for _ in range(groups)]
    for row in sorted(range(len(loads)), key=lambda row: (loads[row].crops == 0, -loads[row].tokens, -loads[row].crops, row)):
        tokens, crops, group = heapq.heappop(heap)
        found[group].append(row)
        # the 1 keeps rows without tokens from all falling into one group
        heapq.heappush(heap, (tokens + max(1, loads[row].tokens), crops + loads[row].crops, group))
    heaviest = sorted(found, key=lambda rows: (-sum(loads[row].tokens for row in rows), rows))
    return [sorted(rows) for rows in heaviest]


def within_budget(loads: Sequence[Load], tokens: int, ranks: int = 1) -> list[list[int]]:
    """As few balanced groups as hold at most `tokens` tokens each, as many for each of `ranks`; a row that alone is longer makes a group of its own."""
    longest = max((load.tokens for load in loads), default=0)
    total = sum(load.tokens for load in loads)
    groups = min(ranks * max(1, math.ceil(total / (tokens * ranks))), max(ranks, len(loads)))
    while True:
        found = balanced(loads, groups)
        if groups >= len(loads) or max(sum(loads[row].tokens for row in rows) for rows in found) <= max(tokens, longest):
            return found
        groups += ranks


def shares_bins(config: ModelConfig, asked: bool | None, place: str) -> tuple[bool, str]:
    """Whether the samples of a micro-batch share one bin, and why not where the recipe leaves it open. Refused where it asks for what the model cannot do.

    Packing never changes a result. It pays where attention runs segment by segment; under a dense mask, as memory and encoder-decoders need it, the work grows with the square of the bin.
    """
    if config.language_model is None:
        return False, "nothing is written: there are no sequences"
    if not config.fusion.packs:
        if asked:
            raise Refused(
                Problem(
                    code="train/cannot-pack",
                    place=place,
                    found=f"pack: true with the fusion {config.fusion.kind}",
                    allowed="pack: false: samples of this fusion may not share a bin",
                    fix="leave `pack` out",
                )
            )
        return False, f"the fusion {config.fusion.kind} keeps samples apart"
    if asked is not None:
        return asked, ""
    if config.fusion.prompt == "memory" or "memory" in {config.fusion.route(role) for role in ("tile", "overview", "detail", "canvas")}:
        return False, f"pictures of the fusion {config.fusion.kind} are memory, whose masks grow with the square of a bin"
    if getattr(config.language_model, "attention", "sdpa") != "sdpa":
        return False, "attention: eager masks whole bins"
    return True, ""

"""The operator that gives equal things equal labels, whatever their set calls them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from sightline.data.labels import NEVER_SAID, LabelTable
from sightline.data.operators import Outcome
from sightline.errors import Problem, Refused
from sightline.kinds import Config
from sightline.samples.exchange import Answer
from sightline.samples.sample import Item, Region, Regions, Sample


class UnifyLabels(Config):
    """Rewrites the labels of regions, known and said, to the ids of a table; texts stay as they are. The published label stays in the region's attribute `published`."""

    kind: Literal["unify-labels"] = "unify-labels"
    table: str | None = None
    """CSV file `id, en, zh, aliases, countable, stuff, parent`; the table that Sightline brings when absent."""
    unknown: Literal["refuse", "quarantine", "keep"] = "refuse"
    """What happens to labels that the table does not know: the set is refused with all of them and proposed merges, their rows are set aside, or they stay as published."""
    wider: bool = False
    """Whether a label becomes the widest one above it (car, small vehicle: vehicle)."""

    def learn(self, samples: Iterable[Sample]) -> Relabel:
        """What rewrites the rows. Refused with all unknown labels, how often they occur, and what they may be, where the policy is to refuse."""
        if self.unknown == "refuse":
            table = LabelTable.load(Path(self.table) if self.table else None)
            counts = Counter(name for sample in samples for name in _unknown(sample, table))
            if counts:
                raise Refused(list(_problems(counts, table)))
        return Relabel(config=self)


@dataclass(frozen=True, kw_only=True)
class Relabel:
    """The operator after a look at the set."""

    config: UnifyLabels

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The sample with unified labels; rule unify-labels/unknown where the policy is to quarantine."""
        table = LabelTable.load(Path(self.config.table) if self.config.table else None)
        if self.config.unknown == "quarantine" and _unknown(sample, table):
            return Outcome(verdict="quarantined", rule="unify-labels/unknown")
        turns = tuple(
            replace(turn, items=self._items(turn.items, table), alternatives=tuple(self._items(items, table) for items in turn.alternatives))
            for turn in sample.turns
        )
        made = replace(sample, annotations=tuple(self._unified(region, table) for region in sample.annotations), turns=turns)
        return Outcome(samples=(sample if made == sample else made,))

    def _items(self, items: Sequence[Item], table: LabelTable) -> tuple[Item, ...]:
        return tuple(
            replace(item, label=self._name(item.label, table), regions=tuple(self._unified(region, table) for region in item.regions))
            if isinstance(item, Regions)
            else item
            for item in items
        )

    def _unified(self, region: Region, table: LabelTable) -> Region:
        name = self._name(region.label, table)
        if name == region.label and name not in NEVER_SAID:
            return region
        attributes = {**region.attributes, **({"published": region.label} if name != region.label else {}), **({"ignore": True} if name in NEVER_SAID else {})}
        return replace(region, label=name, attributes=attributes)

    def _name(self, name: str | None, table: LabelTable) -> str | None:
        found = table.find(name) if name else None
        while found is not None and self.config.wider and found.parent:
            found = table.labels[found.parent]
        return found.id if found else name


def _regions(sample: Sample) -> list[Region]:
    said = [item for turn in sample.turns for items in (turn.items, *turn.alternatives) for item in items if isinstance(item, Regions)]
    return [*sample.annotations, *(region for item in said for region in item.regions)]


def _unknown(sample: Sample, table: LabelTable) -> set[str]:
    return {region.label for region in _regions(sample) if region.label and table.find(region.label) is None}


def _problems(counts: Counter[str], table: LabelTable) -> list[Problem]:
    proposed = {proposal.name: proposal for proposal in table.proposals(counts)}
    return [
        Problem(
            code="data/unknown-label",
            place=f"label {name!r}",
            found=f"in {count} rows",
            allowed="a name or alias of the label table",
            fix=f"add it as an alias of {proposed[name].label!r} ({proposed[name].why})" if name in proposed else "add a row, or an alias, to the label table",
        )
        for name, count in counts.most_common()
    ]

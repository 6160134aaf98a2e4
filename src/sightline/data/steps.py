"""One data step of a recipe: make a layout, read it (or take the rows of another store), apply operators, write a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from sightline.data.augmentation import Dihedral
from sightline.data.captioning import Caption, Match, RankCaptions
from sightline.data.change_notes import ChangeNotes
from sightline.data.change_scenes import ScenePairs
from sightline.data.dedup import Dedup, SemanticDedup
from sightline.data.engine import Engine, Local
from sightline.data.filters import DropCaptions, DropQuestions, KnownLabels, Variety
from sightline.data.operators import OPERATOR, AnswererOf, Judged, Operator, Take
from sightline.data.parts import work_folder
from sightline.data.passes import apply_into
from sightline.data.phrases import NounPhrases
from sightline.data.quality import Corrupt
from sightline.data.questions import Captions, Notes, Questions
from sightline.data.readers.reader import Reader
from sightline.data.reading import OnProblem, read_sets, sets_of
from sightline.data.rewriting import AskQuestions, Rewrite
from sightline.data.scenes import MAKER
from sightline.data.scoring import ByScore, ClipScore, MatchScore, Perplexity
from sightline.data.segment_questions import Segment
from sightline.data.synthesis.reach import coverage
from sightline.data.synthesis.synthesize import Synthesize
from sightline.data.tiling_annotations import Tile
from sightline.data.unify import UnifyLabels
from sightline.kinds import Config
from sightline.samples.sample import Sample
from sightline.samples.store import Store

_MAKING = (Captions, Questions, Notes, Segment, Synthesize, Tile, Dihedral, Corrupt, ChangeNotes)
_CLEANING = (Take, Dedup, SemanticDedup, UnifyLabels, DropQuestions, DropCaptions, KnownLabels, Variety, NounPhrases)
_ASKING = (Caption, Match, RankCaptions, Rewrite, AskQuestions, Perplexity, ClipScore, MatchScore, ByScore)
for _operator in (*_MAKING, *_CLEANING, *_ASKING):
    OPERATOR.add(_operator)
MAKER.add(ScenePairs)


class Kept:
    """The kept samples of a store, readable again and again; `judged` gives them with the groups and scores that the store holds."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __iter__(self) -> Iterator[Sample]:
        return (self.store[int(row)] for row in self.store.kept)

    def judged(self) -> Iterator[Judged]:
        """The same rows with what was said about them."""
        said = self.store.index.select(["group", "scores"]).take(self.store.kept.tolist())
        for sample, group, scores in zip(self, said["group"].to_pylist(), said["scores"].to_pylist(), strict=True):
            yield Judged(sample=sample, group=group, scores=dict(scores))

    def __len__(self) -> int:
        return len(self.store.kept)


def make_layout(config: Config, out: Path) -> None:
    """Make data in a published layout; the kind of `config` says how."""
    config.make(out)  # pyright: ignore[reportAttributeAccessIssue]


def read_and_apply(
    reads: Sequence[tuple[Config | None, Path | None]],
    source: Store | None,
    operators: Sequence[Config],
    out: Path,
    *,
    on_problem: str,
    seed: int,
    config: str,
    answerers: AnswererOf | None = None,
    engine: Engine | None = None,
    fresh: bool = False,
) -> dict[str, Any]:
    """Write the store of one data step to `out`; returns the counts of reading and of each operator.

    `reads`: (reader or None to recognise it, path) pairs, joined on the same picture when there are several; or `source`, whose kept rows are taken. `config` is the
    fingerprint for the lineage, `answerers` who answers operators that ask, `engine` who computes (this machine). A killed step goes on when it is done again, unless `fresh`. Raises Refused with
    every row that cannot be read (unless `on_problem` is quarantine), and when nothing is kept in the end.
    """
    engine = engine or Local()
    policy = cast(OnProblem, on_problem)
    if source is not None:
        return _apply(source, operators, out, seed, config, answerers, engine, fresh)
    given = [(cast(Reader | None, reader), path) for reader, path in reads if path is not None]
    sets = sets_of(given)
    if not operators:
        return {"read": read_sets(sets, out, on_problem=policy, config=config, engine=engine, fresh=fresh).counts(), "operators": []}
    scratch = work_folder(out) / "read"
    read = read_sets(sets, scratch, on_problem=policy, engine=engine, fresh=fresh, keep_parts=True)
    return {"read": read.counts(), **_apply(read, operators, out, seed, config, answerers, engine, fresh)}


def _apply(
    source: Store, operators: Sequence[Config], out: Path, seed: int, config: str, answerers: AnswererOf | None, engine: Engine, fresh: bool
) -> dict[str, Any]:
    steps = cast(Sequence[Operator], operators)
    counts = apply_into(source, steps, out, engine=engine, seed=seed, config=config, answerers=answerers, fresh=fresh)
    written = Store.open(out)
    found = {"operators": [asdict(count) for count in counts], "written": written.counts()}
    last = operators[-1] if operators else None
    return found | {"coverage": coverage(written, last).record()} if isinstance(last, Synthesize) else found

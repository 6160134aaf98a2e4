"""Operators over a whole store: the rows of `apply`, whatever the chunks, the engine, and how often the pass was stopped."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sightline.data import passes
from sightline.data.engine import Engine, Local, Ray
from sightline.data.operators import Decision, Learns, Operator, Outcome, Take, apply
from sightline.data.passes import apply_into, chunks
from sightline.data.steps import Kept
from sightline.errors import Problem, Refused
from sightline.kinds import Config
from sightline.samples.exchange import Answer, Request
from sightline.samples.pictures import describe
from sightline.samples.sample import Origin, Picture, Sample
from sightline.samples.store import Store

ROWS = 60


def picture(number: int) -> Picture:
    stream = io.BytesIO()
    Image.new("RGB", (12, 10 + number % 5), (number * 3 % 256, 9, 7)).save(stream, "PNG")
    return describe(stream.getvalue(), f"{number}.png", "made")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Rows on shared pictures with scores and groups, some of them quarantined, one refused."""
    folder = tmp_path_factory.mktemp("source") / "s"
    with Store.writer(folder) as writer:
        for number in range(ROWS):
            shown = (picture(number // 2), picture(3))[: number % 3]
            sample = Sample(id=f"r{number}", pictures=shown, attributes={"split": "val" if number % 4 else "train"}, origin=Origin(source="made"))
            quarantined = number % 11 == 5
            writer.add(sample, "quarantined" if quarantined else "kept", "old" if quarantined else None, {"age": number / 3}, f"g{number % 2}")
        writer.refuse(Problem(code="data/bad", place="made:60", found="nothing"))
        writer.warn(Problem(code="data/odd", place="made:0", found="odd", severity="warn"))
    return Store.open(folder)


class Vary(Config):
    """Quarantines, keeps, or makes two with a new picture, by chance."""

    kind: Literal["vary"] = "vary"

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        chance = rng.random()
        if chance < 0.2:
            return Outcome(verdict="quarantined", rule="vary/unlucky", columns={"chance": chance})
        if chance < 0.6:
            return Outcome(samples=(sample,), columns={"chance": chance, "said": "text"})
        shown = (*sample.pictures, picture(int(chance * 100)))
        return Outcome(samples=tuple(replace(sample, id=f"{sample.id}.{k}", pictures=shown[k:], attributes={"chance": chance}) for k in range(2)))


class Halve(Config):
    """Keeps the better half, by a list, a text and what was measured before."""

    kind: Literal["halve"] = "halve"

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        vector = rng.standard_normal(4).astype(np.float32)
        return Outcome(samples=(sample,), columns={"norm": float(vector @ vector), "vector": vector, "length": len(sample.id), "name": sample.id})

    def decide(self, index: pa.Table) -> list[Decision]:
        assert index["row"].to_pylist() == list(range(len(index)))
        vectors = np.array(index["vector"].to_pylist())
        assert np.allclose((vectors**2).sum(1), index["norm"].to_numpy(), atol=1e-5)
        ages = [age or 0 for age in index["age"].to_pylist()]
        values = [norm + age / 50 for norm, age in zip(index["norm"].to_pylist(), ages, strict=True)]
        middle = sorted(values)[len(values) // 2]
        return [
            Decision(group=name[:2]) if value >= middle else Decision("quarantined", "halve/lower") for value, name in zip(values, index["name"].to_pylist())
        ]


class Survey(Config):
    """Learns how many rows there are."""

    kind: Literal["survey"] = "survey"

    def learn(self, samples: Iterable[Sample]) -> Surveyed:
        return Surveyed(sum(len(sample.pictures) + 1 for sample in samples))


@dataclass(frozen=True)
class Surveyed:
    total: int

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        return Outcome(samples=(replace(sample, attributes={**sample.attributes, "total": self.total}),), columns={"total": self.total})


class Ask(Config):
    """Writes down what was answered."""

    kind: Literal["ask"] = "ask"

    def ask(self, sample: Sample, rng: np.random.Generator) -> list[Request]:
        return [Request(sample=replace(sample, id=f"{sample.id}#{k}")) for k in range(int(rng.integers(0, 3)))]

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        return Outcome(samples=(replace(sample, attributes={**sample.attributes, "said": [answer.text for answer in answers]}),))


class Echo:
    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for request in reversed(list(requests)):
            yield Answer(key="k", sample=request.sample.id, weights="w", text=f"about {request.sample.id}")

    def measure(self, sample: Sample) -> int:
        return 1


ALL = (Vary(), Halve(), Survey(), Ask(), Take(split=("val",)))
CHAIN = (Vary(), Halve(), Survey(), Ask(), Vary(), Halve())


def passed(source: Store, steps: Sequence[Config], out: Path, engine: Engine | None = None, seed: int = 0) -> Any:
    return apply_into(source, steps, out, engine=engine or Local(workers=1), seed=seed, answerers=lambda operator: Echo())  # pyright: ignore[reportArgumentType]


def content(store: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(store.iterdir()) if file.name != "lineage.json"}


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(ALL), max_size=4), st.integers(1, 70), st.integers(200, 3000), st.integers(0, 3))
def test_rows_are_those_of_apply_whatever_the_chunks(
    source: Store, tmp_path_factory: pytest.TempPathFactory, steps: list[Operator | Learns], rows: int, pixels: int, seed: int
) -> None:
    out = tmp_path_factory.mktemp("out") / "o"
    wanted = apply(steps, Kept(source).judged(), seed, answerers=lambda operator: Echo())
    expected = [(row.sample, row.verdict, row.rule, row.group, dict(row.scores)) for row in wanted.judged()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "CHUNK_ROWS", rows)
        patch.setattr(passes, "CHUNK_PIXELS", pixels)
        patch.setattr(os, "fsync", lambda handle: None)  # a disk that is waited for hundreds of times is another test
        if not any(verdict == "kept" for _, verdict, _, _, _ in expected):
            with pytest.raises(Refused, match="data/nothing-kept"):
                passed(source, steps, out, seed=seed)  # pyright: ignore[reportArgumentType]
            return
        counts = passed(source, steps, out, seed=seed)  # pyright: ignore[reportArgumentType]
    store = Store.open(out)
    found = zip(store, *(store.index[name].to_pylist() for name in ("verdict", "rule", "group", "scores")), strict=True)
    assert [(sample, verdict, rule, group, dict(scores)) for sample, verdict, rule, group, scores in found] == expected
    assert counts == wanted.report
    assert store.refused() == source.refused() and store.warnings() == source.warnings()
    assert [path.name for path in out.parent.iterdir()] == ["o"]


def test_chunks_keep_to_rows_and_pixels(source: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "CHUNK_ROWS", 7)
    monkeypatch.setattr(passes, "CHUNK_PIXELS", 400)
    found = list(chunks(source))
    assert [row for chunk in found for row in chunk] == source.kept.tolist()

    def area(row: int) -> int:
        return sum(picture.width * picture.height for picture in source[row].pictures)

    for chunk, after in zip(found, [*found[1:], None]):
        assert len(chunk) <= 7 and (len(chunk) == 1 or sum(map(area, chunk)) <= 400)
        assert after is None or len(chunk) == 7 or sum(map(area, chunk)) + area(after[0]) > 400, "no chunk is smaller than it must be"


@pytest.mark.parametrize("engine", [Local(workers=1), Local(workers=2), pytest.param("ray", marks=pytest.mark.slow)], ids=str)
def test_the_store_is_the_same_byte_for_byte(source: Store, engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine == "ray":
        monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
        engine = Ray(workers=2)
    steps = CHAIN if isinstance(engine, Local) else CHAIN[:3]
    passed(source, steps, tmp_path / "whole")
    monkeypatch.setattr(passes, "CHUNK_ROWS", 5)
    passed(source, steps, tmp_path / "parts", engine)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert Store.open(tmp_path / "parts").lineage.maker["rows"] == Store.open(tmp_path / "whole").lineage.maker["rows"] != "[]"


def test_pictures_of_the_source_are_not_copied_into_parts(source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.data.parts.Parts.remove", lambda parts: None)
    passed(source, (Take(), Survey()), tmp_path / "o")
    (first,) = (tmp_path / ".parts-o").glob("run0*[0-9a-f].parquet")
    import pyarrow.parquet as pq

    images = [image for row in pq.read_table(first)["images"].to_pylist() for image in row]
    assert images and all(image["bytes"] is None and image["path"].startswith("row:") for image in images)


class Fault(Exception):
    pass


def failing(place: str, number: int, patch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Makes call `number` of a function of the system fail as a full disk or a kill would; tells whether it has."""
    module, name = (os, place) if hasattr(os, place) else (Path, place)
    real, calls = getattr(module, name), [0]

    def faulty(*given: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            raise Fault(place)
        return real(*given, **named)

    patch.setattr(module, name, faulty)
    return lambda: calls[0] >= number


@pytest.mark.parametrize("place", ["fsync", "rename"])
def test_a_pass_that_failed_anywhere_goes_on_to_the_same_bytes(source: Store, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "CHUNK_ROWS", 20)
    steps = (Vary(), Halve(), Survey(), Ask())
    passed(source, steps, tmp_path / "whole")
    wanted, failed = content(tmp_path / "whole"), 0
    for number in range(1, 100):
        out = tmp_path / f"{place}{number}"
        with pytest.MonkeyPatch.context() as patch:
            fired = failing(place, number, patch)
            with suppress(Fault):
                passed(source, steps, out)
            if not fired():
                break
        failed += 1
        passed(source, steps, out)
        assert content(out) == wanted
        assert not list(tmp_path.glob(".*")), "nothing stays behind"
    assert failed > 8


def test_finished_parts_are_not_done_again_and_others_are_not_taken(source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(passes, "CHUNK_ROWS", 10)
    seen: list[str] = []
    real = Take.each
    monkeypatch.setattr(Take, "each", lambda self, sample, rng, answers: seen.append(sample.id) or real(self, sample, rng, answers))

    def stopped(seed: int, fresh: bool = False) -> int:
        seen.clear()
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Fault):
            patch.setattr(passes.Part, "write", lambda *_, **__: (_ for _ in ()).throw(Fault()))
            apply_into(source, [Take()], tmp_path / "o", engine=Local(workers=1), seed=seed, fresh=fresh)
        return len(seen)

    kept = len(source.kept)
    assert [stopped(0), stopped(0), stopped(1), stopped(0), stopped(0, fresh=True)] == [kept, 0, kept, 0, kept]
    assert f"{kept} rows were done before" in capsys.readouterr().err

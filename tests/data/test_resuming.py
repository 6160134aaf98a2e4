"""Reading that is stopped at any moment goes on and ends with the same bytes, whoever computes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline.data import reading
from sightline.data.engine import Local, Ray
from sightline.data.readers.llava_json import LlavaJson
from sightline.data.reading import read_sets
from sightline.errors import Refused
from sightline.samples.store import Store

PROGRAM = """
import sys
from pathlib import Path
from sightline.data import reading
from sightline.data.engine import Local
from sightline.data.readers.llava_json import LlavaJson
if __name__ == "__main__":
    reading.CHUNK_ROWS = 10
    source, out, workers = sys.argv[1:]
    reading.read_sets([[(LlavaJson(), Path(source))]], Path(out), on_problem="quarantine", engine=Local(workers=int(workers)))
"""
ROWS = 300


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions on pictures that some rows share; a few rows are broken."""
    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(0)
    for number in range(ROWS // 2):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(folder / f"{number}.png")
    (folder / "7.png").write_bytes(b"broken")

    def talk(number: int) -> list[dict[str, str]]:
        return [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": f"picture {number}" if number != 20 else ""}]

    rows = [{"id": str(number), "image": f"{number // 2}.png", "conversations": talk(number)} for number in range(ROWS)]
    rows[33]["id"] = "32"
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder


def read(rows: Path, out: Path, engine: Any = None, **named: Any) -> Store:
    return read_sets([[(LlavaJson(), rows / "rows.json")]], out, on_problem="quarantine", engine=engine or Local(workers=1), **named)


@pytest.fixture(scope="module")
def whole(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of the store that an undisturbed pass over one large chunk writes."""
    out = tmp_path_factory.mktemp("whole") / "o"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "CHUNK_ROWS", ROWS)
        store = read(rows, out)
    assert store.counts() == {"kept": ROWS - 4, "quarantined": 0, "refused": 4}
    return content(out)


def content(store: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(store.iterdir()) if file.name != "lineage.json"}


@pytest.mark.parametrize(("workers", "parts"), [(1, 12), (2, 3), (2, 30)])
def test_a_killed_pass_goes_on_to_the_same_bytes(rows: Path, whole: dict[str, bytes], workers: int, parts: int, tmp_path: Path) -> None:
    """Killed when so many parts are there; all 30 of them: while the store is written."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), str(rows / "rows.json"), str(tmp_path / "o"), str(workers)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (tmp_path / ".parts-o").exists() and len(list((tmp_path / ".parts-o").glob("read-*.parquet"))) >= parts:
            break
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "o").exists() or parts == 30
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
    assert content(tmp_path / "o") == whole
    assert [path.name for path in tmp_path.glob(".*")] == []


class Fault(Exception):
    pass


@pytest.mark.parametrize(("module", "name"), [(os, "fsync"), (Path, "rename"), (Path, "mkdir")])
def test_a_failing_disk_at_any_call(rows: Path, whole: dict[str, bytes], module: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK_ROWS", 80)
    real = getattr(module, name)
    for number in range(1, 100):
        calls = 0

        def faulty(*given: Any, number: int = number, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                raise Fault(name)
            return real(*given, **named)

        out = tmp_path / f"{number}"
        with pytest.MonkeyPatch.context() as patch, suppress(Fault):
            patch.setattr(module, name, faulty)
            read(rows, out)
        if calls < number:
            break
        read(rows, out)
        assert content(out) == whole
        assert not list(tmp_path.glob(".*"))
    assert number > 2


@pytest.mark.parametrize("engine", [Local(workers=2), pytest.param("ray", marks=pytest.mark.slow)], ids=str)
def test_engines_write_the_same_bytes(rows: Path, whole: dict[str, bytes], engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine == "ray":
        engine = Ray(workers=2)
    monkeypatch.setattr(reading, "CHUNK_ROWS", 9)
    read(rows, tmp_path / "o", engine)
    assert content(tmp_path / "o") == whole


def test_only_what_changed_is_read_again(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(reading, "CHUNK_ROWS", 30)
    read_rows: list[str] = []
    real = reading.read_row
    monkeypatch.setattr(reading, "read_row", lambda reader, path, row, memo: read_rows.append(row.id) or real(reader, path, row, memo))
    sources = [[(LlavaJson(), rows / "rows.json")]]

    def refused(**named: Any) -> int:
        read_rows.clear()
        with pytest.raises(Refused, match=r"broken-picture|not-a-picture"):
            read_sets(sources, tmp_path / "o", engine=Local(workers=1), **named)
        return len(read_rows)

    assert refused() == ROWS and not (tmp_path / "o").exists()
    assert refused() == 0
    assert f"{ROWS} rows were done before" in capsys.readouterr().err
    os.utime(rows / "40.png")
    assert refused() == 30, "the chunk of rows 80 and 81"
    assert refused(limit=60) == 0
    assert refused(fresh=True) == ROWS
    sources = [[(LlavaJson(licence="CC0"), rows / "rows.json")]]
    assert refused() == ROWS


def test_a_picture_is_decoded_once_in_a_chunk(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sightline.samples import pictures

    count = 0
    real = pictures.open_picture

    def counting(data: bytes, place: str) -> Image.Image:
        nonlocal count
        count += 1
        return real(data, place)

    monkeypatch.setattr(pictures, "open_picture", counting)
    monkeypatch.setattr(reading, "CHUNK_ROWS", 50)
    read(rows, tmp_path / "o")
    assert count == ROWS // 2 + 1, "each once; the broken one for both of its rows"


def test_chunks_are_cut_by_bytes_too(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK_BYTES", 3 * (rows / "0.png").stat().st_size)
    monkeypatch.setattr("sightline.data.parts.Parts.remove", lambda parts: None)
    read(rows, tmp_path / "o", limit=60)
    import pyarrow.parquet as pq

    counts = [pq.read_metadata(path).num_rows for path in sorted((tmp_path / ".parts-o").glob("read-*"))]
    assert sum(counts) == 60 and max(counts) <= 8 and len(counts) >= 9

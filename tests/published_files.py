"""Published layouts of benchmarks, a few rows each, and the answers to them."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from sightline.evaluate.asking import Scores
from sightline.evaluate.benchmark_table import BENCHMARK
from sightline.evaluate.published import PublishedBenchmark, PublishedKind
from sightline.samples.exchange import Answer


def png(colour: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (12, 10), (colour, 20, 30)).save(stream, "PNG")
    return stream.getvalue()


def coded(colour: int = 0) -> str:
    return base64.b64encode(png(colour)).decode()


def tsv(path: Path, header: str, *rows: Sequence[object]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerows([header.split(), *rows])
    return path


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def built(kind: str, path: Path, seen: bool = True, **options: Any) -> PublishedBenchmark:
    config = BENCHMARK.parse({"kind": kind, "path": str(path), **options})
    assert isinstance(config, PublishedKind)
    return config.build(seen=seen)


def answered(benchmark: PublishedBenchmark, *texts: str) -> list[Answer]:
    return [Answer(key=row.index, sample=row.index, weights="t", text=text) for row, text in zip(benchmark.rows, texts, strict=True)]


def values(scores: Scores, *names: str) -> dict[str, float]:
    return {name: round(scores.metrics[name].value, 4) for name in names or scores.metrics}


def mme_folder(folder: Path) -> Path:
    for task, apart in (("count", False), ("scene", True)):
        pictures, questions = (folder / task / name if apart else folder / task for name in ("images", "questions_answers_YN"))
        for where in (pictures, questions):
            where.mkdir(parents=True, exist_ok=True)
        for k in range(2):
            (pictures / f"{k}.png").write_bytes(png(k))
            (questions / f"{k}.txt").write_text(f"Is it {k}? Please answer yes or no.\tYes\nIs it 9? Please answer yes or no.\tNo\n", encoding="utf-8")
    return folder


def vet_file(folder: Path) -> Path:
    (folder / "images").mkdir()
    (folder / "images" / "v.png").write_bytes(png())
    one: dict[str, Any] = {"imagename": "v.png", "answer": "-1<AND>-5"}
    rows = {"v1_0": {**one, "question": "x?", "capability": ["ocr", "math"]}, "v1_1": {**one, "question": "y?", "capability": ["rec"]}}
    path = folder / "mm-vet.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path

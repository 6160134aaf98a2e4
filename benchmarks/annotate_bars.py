"""Whole scenes: a georeferenced mosaic of made scenes whose objects are known, annotated by an answerer that knows them and by a trained model.

Printed for each: seconds, memory above what was there when the model was loaded, recall at seams and inside with 95 % intervals, and whether a pass that is killed and called again asks nothing twice
and writes the same bytes; of the oracle also how far the coordinates of the GeoJSON are from rasterio's transform of the true objects. The last line is one JSON object.

    python benchmarks/annotate_bars.py --work DIR --side 4096 [--model RUN --model-side 4096]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sightline.data.scenes import Scenes, compose
from sightline.evaluate.answers import AnswerFile, answer_of
from sightline.evaluate.localisation import overlaps
from sightline.lineage import sha256_tree, write_json
from sightline.refine.annotate import AnnotateConfig
from sightline.refine.annotate_folder import Wanted, annotate_into
from sightline.refine.annotate_oracle import Oracle
from sightline.samples.codec_table import CODEC
from sightline.samples.codecs import regions_in
from sightline.samples.geometry import corners, min_area_rect
from sightline.samples.sample import Region, RotatedBox

BARS = {"memory above the model, MiB": 1024, "largest error of a coordinate, px": 0.5}
LABELS = ("building", "storage-tank", "vehicle", "road", "pond", "pool", "grove")
NAMES = {"tank": "storage-tank"}
SCENE, WINDOW, OVERLAP = 128, 64, 40
"""Px of a made scene, whose ground is one, and of a window of the model. Made scenes have no object on the middle lines of a picture, so that models learn none there: windows that move on by 24 px show
each object at another place too.
"""
ORACLE = (256, 64)
"""Window and overlap of the answerer that knows."""
CRS, AFFINE = "EPSG:32650", (0.5, 0.0, 440000.0, 0.0, -0.5, 4420000.0)
_KILLS = 2


def mosaic(work: Path, side: int, seed: int) -> tuple[Path, list[Region]]:
    """A GeoTIFF of side x side px pasted from made scenes, and its objects."""
    import rasterio
    from rasterio.transform import Affine

    work.mkdir(parents=True, exist_ok=True)
    path = work / f"mosaic-{side}.tif"
    across = side // SCENE
    made = Scenes(count=across * across, seed=seed, size=SCENE, text_share=0.0)
    array = np.empty((side, side, 3), np.uint8)
    truth: list[Region] = []
    for number in range(across * across):
        left, top = number % across * SCENE, number // across * SCENE
        scene = compose(made, number)
        array[top : top + SCENE, left : left + SCENE] = scene.picture[..., :3]
        for placed in scene.objects:
            label = NAMES.get(placed.label, placed.label)
            if label in LABELS:
                truth.append(Region(label=label, shape=min_area_rect(placed.corners + np.array((left, top)))))
    profile: dict[str, Any] = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "crs": CRS, "transform": Affine(*AFFINE)}
    if not path.is_file():
        with rasterio.open(path, "w", **profile, tiled=True, compress="deflate", photometric="RGB") as dataset:
            dataset.write(array.transpose(2, 0, 1))
    return path, truth


def peak() -> float:
    """Most memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


Boxes = dict[str, list[RotatedBox]]


def boxes_in(path: Path) -> Boxes:
    """Boxes of a GeoJSON in the system of the mosaic, px, by label."""
    found: Boxes = {}
    for one in json.loads(path.read_text(encoding="utf-8"))["features"]:
        ring = np.array(one["geometry"]["coordinates"][0][:-1])
        pixels = np.stack([(ring[:, 0] - AFFINE[2]) / AFFINE[0], (ring[:, 1] - AFFINE[5]) / AFFINE[4]], axis=1)
        found.setdefault(one["properties"]["label"], []).append(min_area_rect(pixels))
    return found


def boxes_named(path: Path) -> Boxes:
    """All boxes that windows named, before they were merged, px of the mosaic, by label; of `answers.jsonl`."""
    found: Boxes = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        answer = answer_of(json.loads(line))
        place, _, label = answer.sample.partition("#")
        left, top = _corner(place)
        shapes = [region.shape for region in regions_in(answer.items)]
        found.setdefault(label, []).extend(replace(box, cx=box.cx + left, cy=box.cy + top) for box in shapes if isinstance(box, RotatedBox))
    return found


def _corner(place: str) -> tuple[int, int]:
    """Left and top of a window by its name: NAME__RATE__LEFT___TOP."""
    before, _, top = place.rpartition("___")
    return int(before.rpartition("__")[2]), int(top)


def recall(truth: Sequence[Region], found: Boxes, side: int, window: int, overlap: int) -> dict[str, Any]:
    """Shares of true objects found with rotated IoU 0.5, at seams (the object meets an inner edge of a window) and inside, with 95 % intervals (Wilson 1927)."""
    edges = np.array(sorted({start for first in range(0, max(side - window, 0), window - overlap) for start in (first, first + window)} | {side - window}))
    edges = edges[(edges > 0) & (edges < side)]
    hits: dict[str, list[tuple[str, bool]]] = {"at seams": [], "inside": []}
    for label in LABELS:
        boxes = [one.shape for one in truth if one.label == label and isinstance(one.shape, RotatedBox)]
        best = overlaps(boxes, found.get(label, [])).max(axis=1, initial=0.0) if boxes else np.zeros(0)
        for box, iou in zip(boxes, best.tolist(), strict=True):
            (x0, y0), (x1, y1) = corners(box).min(0), corners(box).max(0)
            crossed = ((edges > x0) & (edges < x1)).any() or ((edges > y0) & (edges < y1)).any()
            hits["at seams" if crossed else "inside"].append((label, iou >= 0.5))
    named: dict[str, Any] = {name: _interval([hit for _, hit in own]) for name, own in hits.items()}
    right, number = sum(hit for own in hits.values() for _, hit in own), sum(map(len, found.values()))
    told = {"inside, labels as at seams": _as_at_seams(hits), "found": number, "true": len(truth), "precision": round(right / max(1, number), 3)}
    return {**named, **told}


def _as_at_seams(hits: dict[str, list[tuple[str, bool]]]) -> float:
    """Recall inside, its labels weighted as they occur at seams: large objects meet an edge more often, and are found more or less often for other reasons."""
    shares = Counter(label for label, _ in hits["at seams"])
    inside = {label: [hit for other, hit in hits["inside"] if other == label] for label in shares}
    known = {label: own for label, own in inside.items() if own}
    total = sum(shares[label] for label in known)
    return round(sum(shares[label] * sum(own) / len(own) for label, own in known.items()) / max(1, total), 4)


def _interval(hits: Sequence[bool]) -> dict[str, Any]:
    n, share, z = len(hits), float(np.mean(hits)) if hits else 0.0, 1.96
    middle, reach = (
        (share + z * z / 2 / max(n, 1)) / (1 + z * z / max(n, 1)),
        z * float(np.sqrt(share * (1 - share) / max(n, 1) + z * z / 4 / max(n, 1) ** 2)) / (1 + z * z / max(n, 1)),
    )
    return {"recall": round(share, 4), "low": round(middle - reach, 4), "high": round(middle + reach, 4), "n": n}


def coordinate_error(truth: Sequence[Region], path: Path) -> float:
    """Largest distance in px between true centres by rasterio's transform, in WGS 84, and those of the GeoJSON; of objects found, whatever their size."""
    from rasterio.transform import Affine
    from rasterio.warp import transform

    rings = [np.array(one["geometry"]["coordinates"][0][:-1]).mean(0) for one in json.loads(path.read_text(encoding="utf-8"))["features"]]
    x, y = (np.array(axis) for axis in transform("EPSG:4326", CRS, *np.array(rings).T.tolist())[:2])
    inverse = ~Affine(*AFFINE)
    back = np.stack([inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f], axis=1)
    true = np.array([corners(one.shape).mean(0) for one in truth if isinstance(one.shape, RotatedBox)])
    return float(np.array([np.hypot(*(true - place).T).min() for place in back]).max())


def oracle_pass(work: Path, side: int, out: Path, seed: int, crs: str = "wgs84") -> tuple[list[dict[str, Any]], int]:
    """One pass of the answerer that knows, to its end."""
    path, truth = mosaic(work, side, seed)
    oracle = Oracle(truth, CODEC.parse({"kind": "xyhwt"}))  # pyright: ignore[reportArgumentType]
    config = AnnotateConfig(labels=LABELS, window=ORACLE[0], overlap=ORACLE[1])
    wanted = Wanted(forms=("geojson", "coco", "dota", "png"), crs="file" if crs == "file" else "wgs84")
    records = annotate_into(path, out, oracle, AnswerFile(out / "answers.jsonl"), config, wanted=wanted, model={"id": "oracle"})
    return records, oracle.asked


def oracle_bars(work: Path, side: int, seed: int) -> dict[str, Any]:
    """Time, memory, recall, coordinates and kills of the whole pass without a model."""
    path, truth = mosaic(work, side, seed)
    before, began = peak(), time.monotonic()
    records, asked = oracle_pass(work, side, work / "oracle", seed)
    seconds, above = time.monotonic() - began, peak() - before
    oracle_pass(work, side, work / "oracle-file", seed, "file")
    command = [sys.executable, __file__, "--work", str(work), "--side", str(side), "--seed", str(seed), "--once", str(work / "killed")]
    same = killed(command, work / "killed", work / "oracle", seconds)
    name = f"{path.stem}.geojson"
    found = recall(truth, boxes_in(work / "oracle-file" / name), side, *ORACLE)
    return {
        "seconds": round(seconds, 1),
        "memory above the start, MiB": round(above),
        "questions": asked,
        **found,
        "largest error of a coordinate, px": round(coordinate_error(truth, work / "oracle" / name), 3),
        "merging": records[0]["counts"]["merging"],
        **same,
    }


def killed(command: Sequence[str], out: Path, whole: Path, seconds: float) -> dict[str, Any]:
    """Kill a pass some times on its way, let it end, and compare all that it wrote."""
    kills = 0
    for share in np.linspace(0.35, 0.75, _KILLS):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(float(share) * seconds + 4)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    keys = [json.loads(line)["key"] for line in (out / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    ours, theirs = (
        {path.relative_to(root): sha256_tree(path) for path in root.rglob("*") if path.is_file() and path.name != "answers.jsonl"} for root in (out, whole)
    )
    return {"kills": kills, "asked twice": len(keys) - len(set(keys)), "same bytes after kills": ours == theirs}


def model_command(model: Path, path: Path, out: Path) -> list[str]:
    """The verb, as a person would give it."""
    said = [
        "--model",
        str(model),
        "--labels",
        ",".join(LABELS),
        "--out",
        str(out),
        "--to",
        "geojson",
        "--crs",
        "file",
        "--window",
        str(WINDOW),
        "--overlap",
        str(OVERLAP),
    ]
    return [sys.executable, "-m", "sightline", "annotate", str(path), *said, "--presence", "0.5", "--max-tokens", "128"]


def model_bars(work: Path, model: Path, side: int, seed: int) -> dict[str, Any]:
    """The same of a trained model through the verb. Memory above the model: the most of the whole pass less that of a scene of a few windows."""
    path, truth = mosaic(work, side, seed)
    small, _ = mosaic(work, SCENE, seed)
    base = _measured(model_command(model, small, work / "model-small"))
    told = _measured(model_command(model, path, work / "model"))
    same = killed(model_command(model, path, work / "model-killed"), work / "model-killed", work / "model", told["seconds"])
    found = recall(truth, boxes_in(work / "model" / f"{path.stem}.geojson"), side, WINDOW, OVERLAP)
    named = recall(truth, boxes_named(work / "model" / "answers.jsonl"), side, WINDOW, OVERLAP)
    kept = {f"{name}, named by any window": named[name]["recall"] for name in ("at seams", "inside")}
    counts = json.loads((work / "model" / f"{path.stem}.scene.json").read_text(encoding="utf-8"))["counts"]
    return {
        "side": side,
        "seconds": round(told["seconds"], 1),
        "memory above the model, MiB": round(told["peak"] - base["peak"]),
        **found,
        **kept,
        "counts": counts,
        **same,
    }


def _measured(command: Sequence[str]) -> dict[str, float]:
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, f"{' '.join(command)} ended with {status}"
    return {"seconds": time.monotonic() - began, "peak": used.ru_maxrss / 1024}


def main() -> None:
    """Run what is asked for, print, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--model-side", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--once", type=Path, help="one pass of the oracle into this folder, to be killed")
    arguments = parser.parse_args()
    if arguments.once is not None:
        oracle_pass(arguments.work, arguments.side, arguments.once, arguments.seed)
        return
    told: dict[str, Any] = {"oracle": oracle_bars(arguments.work, arguments.side, arguments.seed)}
    if arguments.model is not None:
        told["model"] = model_bars(arguments.work, arguments.model, arguments.model_side, arguments.seed)
    for name, figures in told.items():
        print(name)
        for key, value in figures.items():
            print(f"  {key}: {value}")
    write_json(arguments.work / "bars.json", told)
    print(json.dumps({"bars": BARS, **told}))


if __name__ == "__main__":
    main()

"""Golden requests: what a model said when it was saved, checked by forcing when it is loaded to answer. Vectors for dual towers, token log-probabilities for writers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sightline.errors import Problem, Refused
from sightline.model.batch import to_device
from sightline.model.packing import Encoded
from sightline.model.processor import Processor
from sightline.model.vlm import Model
from sightline.samples.exchange import Answer
from sightline.samples.pictures import read_picture
from sightline.samples.records import item_of, item_record
from sightline.samples.sample import Film, Item, Origin, Regions, Sample, Show, Text, Turn

GOLDEN_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05}
"""Largest mean |difference| of token log-probabilities, or of vector components, between what was saved and one forward."""


def write_golden(
    folder: Path, model: Model, processor: Processor, told: Sequence[tuple[Sample, Answer]] = (), pairs: Sequence[tuple[Sample, str]] = ()
) -> None:
    """Write `golden/` of a model directory: `told` prompts with the model's greedy float32 answers, and `pairs` of a picture and a text for a dual tower."""
    target = folder / "golden"
    target.mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = []
    for sample, answer in told:
        turns = [{"role": turn.role, "items": [_plain(item) for item in turn.items]} for turn in sample.turns]
        rows.append(
            {
                "ask": "write",
                "pictures": _store(target, len(rows), sample),
                "turns": turns,
                "tokens": list(answer.tokens),
                "logps": list(answer.logps),
                "text": answer.text,
            }
        )
    for sample, text in pairs:
        picture, words = _vectors(model, processor, sample, text, "float32")
        rows.append({"ask": "embed", "pictures": _store(target, len(rows), sample), "text": text, "picture_vector": picture, "text_vector": words})
    (target / "requests.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _store(target: Path, number: int, sample: Sample) -> list[str]:
    """Write the pictures of a request; their file names."""
    files = []
    for index, picture in enumerate(sample.pictures):
        assert isinstance(picture.data, bytes)
        files.append(f"{number:02d}-{index}.bin")
        (target / files[-1]).write_bytes(picture.data)
    return files


def _plain(item: Item) -> str | int | dict[str, Any]:
    """An item of a golden turn as JSON: text, the number of the picture that is shown, the frames and times of a film, or regions."""
    if isinstance(item, Regions):
        return item_record(item)
    if isinstance(item, Film):
        return {"film": list(item.pictures), "times": list(item.times)}
    return item.text if isinstance(item, Text) else item.picture


def _item(plain: str | int | dict[str, Any]) -> Item:
    if isinstance(plain, dict):
        return Film(pictures=tuple(plain["film"]), times=tuple(plain["times"])) if "film" in plain else item_of(plain)
    return Text(text=plain) if isinstance(plain, str) else Show(picture=plain)


@torch.no_grad()
def _vectors(model: Model, processor: Processor, sample: Sample, text: str, precision: str) -> tuple[list[float], list[float]]:
    """Joint vectors (E,) of a picture and of a text."""
    device = next(model.parameters()).device
    batch = to_device(processor.collate([[processor.encode_pair(sample, text)]]), device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        output = model(batch, ask="embed")
    return output.pictures[0, 0].float().tolist(), output.texts[0].float().tolist()


def golden_rows(folder: Path) -> Iterator[tuple[dict[str, Any], Sample]]:
    """Lines of the golden requests of a model directory, each with its sample: pictures, and the turns of what is written. Refused where an earlier version wrote them."""
    path = folder / "golden" / "requests.jsonl"
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line:
            continue
        row = json.loads(line)
        if "ask" not in row:
            found, allowed = "a request that does not say what is asked", "golden requests as this version writes them"
            fix = "train the stage again, or load with the check switched off"
            raise Refused(Problem(code="evaluate/earlier-golden", place=f"{path}:{number}", found=found, allowed=allowed, fix=fix))
        pictures = tuple(read_picture(folder / "golden" / Path(name).name) for name in row["pictures"])
        turns = tuple(Turn(role=turn["role"], items=tuple(map(_item, turn["items"]))) for turn in row.get("turns", ()))
        yield row, Sample(id="golden", pictures=pictures, turns=turns, origin=Origin(source="golden"))


def golden_prompts(folder: Path) -> tuple[list[Sample], list[tuple[Sample, str]]]:
    """What the golden requests of a model directory ask, for another model to answer: prompts, and pairs of a picture and a text."""
    prompts: list[Sample] = []
    pairs: list[tuple[Sample, str]] = []
    for row, sample in golden_rows(folder):
        if row["ask"] == "embed":
            pairs.append((sample, row["text"]))
        else:
            prompts.append(sample)
    return prompts, pairs


@torch.no_grad()
def check_golden(folder: Path, model: Model, processor: Processor, precision: str = "float32") -> float:
    """Mean |difference| over all token log-probabilities and vector components, by one forward per request; Refused above the tolerance."""
    path = folder / "golden" / "requests.jsonl"
    if not path.is_file():
        raise Refused(
            Problem(
                code="evaluate/no-golden",
                place=str(path),
                found="no golden requests",
                allowed="a model directory with golden/",
                fix="train the stage again, or load with the check switched off",
            )
        )
    differences: list[float] = []
    for row, sample in golden_rows(folder):
        if row["ask"] == "embed":
            found = np.concatenate(_vectors(model, processor, sample, row["text"], precision))
            differences += np.abs(found - np.array([*row["picture_vector"], *row["text_vector"]])).tolist()
        else:
            found = forced(model, processor, processor.encode(sample, answer=False), row["tokens"], precision)
            differences += np.abs(found - np.array(row["logps"])).tolist()
    mean = sum(differences) / max(1, len(differences))
    if not mean <= GOLDEN_TOLERANCE[precision]:  # also where it is not a number
        raise Refused(
            Problem(
                code="evaluate/golden-differs",
                place=str(path),
                found=f"mean |difference| {mean:.3g} of {len(differences)} golden numbers",
                allowed=f"<= {GOLDEN_TOLERANCE[precision]}",
                fix="the weights, tokenizer or picture pipeline changed: restore the model directory, or compare `sightline env` with lineage.json",
            )
        )
    return mean


def forced(model: Model, processor: Processor, prompt: Encoded, tokens: Sequence[int], precision: str) -> np.ndarray:
    """Log-probability of each given token after a prompt, by one forward."""
    device = next(model.parameters()).device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        logp = model(to_device(processor.collate([[answered(prompt, tokens)]]), device), ask="write").logp
    return logp.cpu().numpy()


def answered(prompt: Encoded, tokens: Sequence[int]) -> Encoded:
    """A prompt with the tokens of its answer, which are its targets."""
    count, length = len(tokens), prompt.length
    following = np.arange(prompt.positions.max(initial=-1) + 1, prompt.positions.max(initial=-1) + 1 + count)
    return replace(
        prompt,
        ids=np.concatenate([prompt.ids, np.asarray(tokens, np.int64)]),
        positions=np.concatenate([prompt.positions, np.broadcast_to(following, (*prompt.positions.shape[:-1], count))], axis=-1),
        branches=np.zeros(length + count, np.int32),
        sees=np.concatenate([prompt.sees, np.repeat(prompt.sees[-1:], count, axis=0)]) if prompt.sees is not None else None,
        answers=np.arange(length - 1, length - 1 + count),
        targets=np.asarray(tokens, np.int64),
        weights=np.ones(count, np.float32),
        pair_of=np.zeros(count, np.int64),
    )

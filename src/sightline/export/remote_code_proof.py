"""Proof of an exported folder: what stock transformers computes with it, beside ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sightline.errors import Problem, Refused
from sightline.evaluate.answering import LocalAnswerer
from sightline.evaluate.golden import golden_prompts
from sightline.export import remote_code_reload
from sightline.export.exporters import Proof
from sightline.lineage import write_json
from sightline.model import directory, hub_layout
from sightline.model.processor import Processor
from sightline.model.vlm import Model
from sightline.samples.exchange import Decoding, Request
from sightline.samples.pictures import describe, encoded, pixels
from sightline.samples.sample import Origin, Picture, Sample, Show, Text, Turn

ANSWERS = 3
"""Golden answers that are compared."""
TOKENS = 24
"""Tokens of each at most."""
CLOSE = 1e-5
"""Largest |difference| of logits that is taken for rounding, as a share of the largest |logit|, 1 at least."""
_SIZES = ((200, 120), (64, 160), (96, 96))


def prove(model_dir: Path, out: Path, target: str) -> Proof:
    """Logits of every token of a few prompts, and greedy answers to them, by the folder in a process of its own. Raises Refused where it does not load, or says anything else than we do."""
    model, processor, weights = directory.load(model_dir)
    samples = asked(model_dir)
    answerer = LocalAnswerer(model, processor, weights)
    ours = {answer.sample: answer for answer in answerer.answer([Request(sample=one, decoding=Decoding(max_tokens=TOKENS)) for one in samples])}
    with tempfile.TemporaryDirectory() as scratch:
        said, logits = _reloaded(out, Path(scratch), samples)
    image = hub_layout.read_json(out / "config.json")["image_token_id"]
    worst, largest, golden = 0.0, 1.0, []
    for number, (sample, theirs) in enumerate(zip(samples, said["answers"], strict=True)):
        ids, own = _ours(model, processor, sample, image)
        if ids != theirs["ids"]:
            raise Refused(_other_tokens(out, processor, ids, theirs["ids"]))
        worst = max(worst, (own - logits[f"{number}"][:, : own.shape[1]]).abs().max().item())
        largest = max(largest, own.abs().max().item())
        golden.append((ours[sample.id].text, processor.decode(theirs["drawn"])))
    if problems := _differing(out, worst, largest, golden):
        raise Refused(problems)
    return Proof(target=target, difference=worst, golden=tuple(golden), through="our own processor code", software=said["software"])


def _differing(out: Path, worst: float, largest: float, golden: Sequence[tuple[str, str]]) -> list[Problem]:
    """Logits further apart than rounding makes them, and answers that are not ours."""
    found = [(f"logits that differ by {worst:.3g}", f"at most {CLOSE:g} of the largest, {largest:.3g}")] if worst > CLOSE * largest else []
    found += [(f"the answer {theirs!r}", repr(ours)) for ours, theirs in golden if ours != theirs]
    return [
        Problem(code="export/other-answers", place=str(out), found=said, allowed=allowed, fix="report it: the folder is not the model")
        for said, allowed in found
    ]


def asked(model_dir: Path) -> list[Sample]:
    """Golden prompts of pictures and text, made up to ANSWERS by pictures of noise of several shapes."""
    kept: list[Sample] = []
    if (model_dir / "golden" / "requests.jsonl").is_file():
        prompts, _ = golden_prompts(model_dir)
        kept = [one for one in prompts if all(isinstance(item, Text | Show) for turn in one.turns for item in turn.items)]
    kept += [_noise(number) for number in range(max(0, ANSWERS - len(kept)))]
    return [Sample(id=f"{number}", pictures=one.pictures, turns=one.turns, origin=one.origin) for number, one in enumerate(kept[:ANSWERS])]


def _noise(number: int) -> Sample:
    width, height = _SIZES[number % len(_SIZES)]
    array = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    picture = describe(encoded(array), f"noise-{number}", "proof")
    turn = Turn(role="user", items=(Show(picture=0), Text(text="What is in this picture?")))
    return Sample(id="noise", pictures=(picture,), turns=(turn,), origin=Origin(source="proof"))


def _reloaded(out: Path, scratch: Path, samples: Sequence[Sample]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    from safetensors.torch import load_file

    requests = []
    for number, sample in enumerate(samples):
        names = [_stored(picture, scratch / f"{number}-{index}.png") for index, picture in enumerate(sample.pictures)]
        shown = [item.picture for turn in sample.turns for item in turn.items if isinstance(item, Show)]
        requests.append({"messages": [_message(turn) for turn in sample.turns], "pictures": [names[index] for index in shown], "tokens": TOKENS})
    write_json(scratch / "requests.json", requests)
    surroundings = os.environ | {"HF_MODULES_CACHE": str(scratch / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-P", remote_code_reload.__file__, str(out.resolve()), str(scratch)]
    ended = subprocess.run(command, capture_output=True, text=True, env=surroundings, check=False)
    if ended.returncode:
        found = "\n".join(ended.stderr.strip().splitlines()[-8:])
        raise Refused(
            Problem(
                code="export/not-reloaded",
                place=str(out),
                found=found,
                allowed="a folder that transformers loads",
                fix="write it again with these versions of the libraries",
            )
        )
    return json.loads((scratch / "answers.json").read_text(encoding="utf-8")), load_file(scratch / "logits.safetensors")


def _stored(picture: Picture, path: Path) -> str:
    Image.fromarray(pixels(picture)).save(path)
    return path.name


def _message(turn: Turn) -> dict[str, Any]:
    return {"role": turn.role, "content": [{"type": "text", "text": item.text} if isinstance(item, Text) else {"type": "image"} for item in turn.items]}


@torch.no_grad()
def _ours(model: Model, processor: Processor, sample: Sample, image: int) -> tuple[list[int], torch.Tensor]:
    """Ids of a prompt with the picture's token in its places, and logits (T, V)."""
    prompt = processor.encode(sample, answer=False)
    ids = prompt.ids.copy()
    ids[prompt.slots] = image
    hidden = model.hidden(processor.collate([[prompt]]))
    return ids.tolist(), model.language_model.logits(hidden[0])


def _other_tokens(out: Path, processor: Processor, ours: list[int], theirs: list[int]) -> Problem:
    first = next((number for number, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]), min(len(ours), len(theirs)))
    told = [
        processor.tokenizer.decode([one for one in ids[max(0, first - 4) : first + 4] if one < processor.tokenizer.size], controls=True)
        for ids in (ours, theirs)
    ]
    return Problem(
        code="export/other-tokens",
        place=str(out / "tokenizer.json"),
        found=f"{len(theirs)} tokens where Sightline has {len(ours)}; from token {first} on {told[1]!r}",
        allowed=f"{told[0]!r}: a tokenizer that writes text after a control token as it writes it alone",
        fix="serve it by `sightline serve`",
    )

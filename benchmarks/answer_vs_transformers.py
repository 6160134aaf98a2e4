"""Questions about pictures, beside generate of transformers: the same weights, questions and threads on the same machine. The last line is one JSON object.

Workload A with a tower that sees 384 px in patches of 16, which are 576 tokens a picture; questions of 8 to 24 tokens, greedy answers of 1 to 16 tokens, ended by their length alone; 18 questions on
each of 60 pictures, and one on each.

The peer is LlavaForConditionalGeneration on our exported weights: `generate` for one question after the other, sdpa, its own cache. Every side runs in a process of its own with equally many threads; answers are
compared token by token in float32.

Ratios are of questions per second of the clock, reading pictures included, so that nothing else may run on the machine; beside them stand those of processor time, which other work changes less.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from workload_a import WORDS, write_model

from sightline.samples.exchange import Decoding, Request
from sightline.samples.pictures import describe, pixels
from sightline.samples.sample import Origin, Sample, Show, Text, Turn

SIDE = 384
BARS = {"ratio": 6.0, "ratio_single": 1.5}
"""Questions per second of the clock, at least, ours over the peer's: many on each picture, one on each."""
EQUAL = 0.99
"""Answers that are the same in float32, at least: sums in another order may turn a near-tie."""


def questions(pictures: int, each: int, tokenizer: Any, seed: int = 0) -> list[Request]:
    """`each` questions of 8 to 24 tokens on every picture; the answer to each is as long as it is allowed to be, 1 to 16 tokens."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(pictures):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(stream, "JPEG")
        picture = describe(stream.getvalue(), f"{number}.jpg", "bench")
        for question in range(each):
            length, text = int(rng.integers(8, 25)), ""
            while len(tokenizer.encode(text)) < length:
                text += f" {rng.choice(WORDS)}"
            turn = Turn(role="user", items=(Show(picture=0), Text(text=text.strip())))
            sample = Sample(id=f"{number:03}-{question:02}", pictures=(picture,), turns=(turn,), origin=Origin(source="bench"))
            found.append(Request(sample=sample, decoding=Decoding(max_tokens=int(rng.integers(1, 17)))))
    return found


def _spent() -> float:
    """Processor seconds of this process."""
    use = resource.getrusage(resource.RUSAGE_SELF)
    return use.ru_utime + use.ru_stime


def _measured(answers: dict[str, list[int]], wall: float, spent: float, **said: Any) -> dict[str, Any]:
    """Figures of a side; the peak is that of the whole process, weights included. What getrusage says begins with the parent's."""
    wall, spent = time.monotonic() - wall, _spent() - spent
    [line] = [line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:")]
    peak = int(line.split()[1]) / 1024
    return {"wall": wall, "processor": spent, "rate": len(answers) / wall, "peak_mib": peak, **said, "answers": answers}


def ours(folder: Path, pictures: int, each: int, precision: str, batch_tokens: int | None) -> dict[str, Any]:
    """All questions asked at once."""
    from sightline.evaluate.answering import LocalAnswerer
    from sightline.model import directory

    answerer = LocalAnswerer(*directory.load(folder / "ours"), precision, batch_tokens=batch_tokens)
    asked = questions(pictures, each, answerer.processor.tokenizer)
    wall, spent = time.monotonic(), _spent()
    found = {answer.sample: list(answer.tokens) for answer in answerer.answer(asked)}
    return _measured(found, wall, spent, batch_tokens=answerer.batch_tokens, counts=asdict(answerer.counts))


def theirs(folder: Path, pictures: int, each: int, precision: str, batch_tokens: int | None) -> dict[str, Any]:
    """One question after the other; prompts as ours tokenises them, made beforehand."""
    import torch
    from transformers import LlavaForConditionalGeneration

    from sightline.model import directory

    _, processor, _ = directory.load(folder / "ours")
    tower = processor.config.encoders[0].resolve()
    mean, std = (np.asarray(said, np.float32)[:, None, None] * 255 for said in (tower.mean, tower.std))
    image = json.loads((folder / "theirs" / "config.json").read_text(encoding="utf-8"))["image_token_index"]
    model: Any = LlavaForConditionalGeneration.from_pretrained(folder / "theirs", attn_implementation="sdpa", dtype=getattr(torch, precision)).eval()
    model.generation_config.eos_token_id = None
    prompts = []
    for request in questions(pictures, each, processor.tokenizer):
        encoded = processor.encode(request.sample, answer=False)
        ids = encoded.ids.copy()
        ids[encoded.slots] = image
        prompts.append((request, torch.from_numpy(ids)[None]))
    wall, spent = time.monotonic(), _spent()
    found = {}
    for request, ids in prompts:
        shown = (pixels(request.sample.pictures[0]).transpose(2, 0, 1).astype(np.float32) - mean) / std
        with torch.no_grad():
            told = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=torch.from_numpy(shown)[None].to(model.dtype),
                max_new_tokens=request.decoding.max_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        found[request.sample.id] = told[0, ids.shape[1] :].tolist()
    return _measured(found, wall, spent)


def _run(folder: Path, threads: int, **said: Any) -> dict[str, Any]:
    """One side in a process of its own."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in said.items() if value is not None]
    ended = subprocess.run([sys.executable, __file__, f"--folder={folder}", f"--threads={threads}", *words], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(words)}: {ended.stderr[-2000:]}")
    found = json.loads(ended.stdout.splitlines()[-1])
    print(" ".join(words), json.dumps({key: value for key, value in found.items() if key != "answers"}), file=sys.stderr, flush=True)
    return found


def _same(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Share of answers that are the same to the last token."""
    answers, told = one["answers"], other["answers"]
    assert answers.keys() == told.keys(), "both were asked the same"
    return sum(answers[name] == told[name] for name in answers) / len(answers)


def compare(folder: Path, pictures: int, each: int, singles: int, rounds: int, threads: int, batch_tokens: int | None, blocks: int | None) -> dict[str, Any]:
    """Sides in turn. Ratios are those of the best round of each side, by the clock and by processor time."""
    write_model(folder, blocks, side=SIDE)
    found: dict[str, dict[str, Any]] = {}
    same = 1.0
    for precision in ("float32", "bfloat16"):
        for name, count, many in (("many", pictures, each), ("single", singles, 1)):
            for _ in range(rounds):
                sides = {}
                for side in ("theirs", "ours"):
                    said = {"pictures": count, "each": many, "precision": precision, "batch_tokens": batch_tokens}
                    sides[side] = _run(folder, threads, side=side, **said)
                    best = found.setdefault(f"{name}-{precision}", {}).setdefault(side, dict(sides[side]))
                    best |= {"rate": max(best["rate"], sides[side]["rate"]), "processor": min(best["processor"], sides[side]["processor"])}
                same = min(same, _same(sides["ours"], sides["theirs"])) if precision == "float32" else same
    ratio = lambda name: found[name]["ours"]["rate"] / found[name]["theirs"]["rate"]  # noqa: E731
    spent = lambda name: found[name]["theirs"]["processor"] / found[name]["ours"]["processor"]  # noqa: E731
    many = found["many-float32"]
    return {
        "ratio": ratio("many-float32"),
        "ours": many["ours"]["rate"],
        "peer": many["theirs"]["rate"],
        "ratio_single": ratio("single-float32"),
        "same_answers": same,
        "peak_mib": many["ours"]["peak_mib"],
        "peer_peak_mib": many["theirs"]["peak_mib"],
        "batch_tokens": many["ours"]["batch_tokens"],
        "ratio_bfloat16": ratio("many-bfloat16"),
        "ratio_single_bfloat16": ratio("single-bfloat16"),
        "processor_ratio": spent("many-float32"),
        "processor_ratio_single": spent("single-float32"),
        "bars": BARS | {"same_answers": EQUAL},
        "machine": f"{platform.processor() or platform.machine()}, {threads} threads",
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run all, print the last line; 0 = the bars are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--each", type=int, default=18, help="questions on each picture")
    parser.add_argument("--singles", type=int, help="pictures with one question each; as many as --pictures where absent")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of each side")
    parser.add_argument("--blocks", type=int, help="of tower and decoder each, where not all")
    parser.add_argument("--batch-tokens", type=int, help="bound on columns of keys and values at a time")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="float32", help=argparse.SUPPRESS)
    told = parser.parse_args(argv)
    if told.side:
        import torch

        torch.set_num_threads(told.threads)
        one = {"ours": ours, "theirs": theirs}[told.side](told.folder, told.pictures, told.each, told.precision, told.batch_tokens)
        print(json.dumps(one))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        singles = told.singles or told.pictures
        found = compare(Path(scratch), told.pictures, told.each, singles, told.rounds, told.threads, told.batch_tokens, told.blocks)
    print(json.dumps(found))
    return int(any(found[name] < bar for name, bar in BARS.items()) or found["same_answers"] < EQUAL or not math.isfinite(found["peak_mib"]))


if __name__ == "__main__":
    sys.exit(main())

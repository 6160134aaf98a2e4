"""Training beside transformers.Trainer: the same weights, rows and mathematics on the same machine, in turn. The last line is one JSON object.

Workload A: a CLIP ViT of 12 blocks of 384 on 224 px (196 tokens a picture), frozen; a Qwen2 of 8 blocks of 512 with 32,000 tokens and a connector, trained; batches of 8; texts of
log-normal(4.3, 0.7) tokens, clipped to 24..480, of which 20 to 70 % are the answer; bfloat16 autocast over float32 weights, fused AdamW, gradient norm clipped to 1.

The peer is LlavaForConditionalGeneration on our exported weights: padded to the longest, length-grouped, sdpa, the best of 0, 1 and 2 loading workers. Every side runs in a process of its own; both
are timed by processor time, which other work on the machine does not change, and by their peak resident memory.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from workload_a import WORDS, write_model

from sightline.samples.pictures import describe
from sightline.samples.sample import Origin, Sample, Show, Text, Turn

BATCH = 8
RATE = 1e-5
PAIRS, STEPS = 5, 6
BARS = {"ratio": 2.0, "cached_ratio": 3.0, "peak_memory_ratio": 0.65}
"""Samples per second, at least; with cached features, at least; peak memory, at most: ours over the peer's."""


def rows(count: int, seed: int = 0, side: int = 224) -> list[Sample]:
    """Rows of the workload's lengths; every picture is shown once."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        total = int(np.clip(rng.lognormal(4.3, 0.7), 24, 480))
        answer = round(total * rng.uniform(0.2, 0.7))
        question, told = (" ".join(rng.choice(WORDS, words)) for words in (total - answer - 2, answer))
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(stream, "JPEG")
        turns = (Turn(role="user", items=(Show(picture=0), Text(text=question))), Turn(role="assistant", items=(Text(text=f" {told}"),)))
        picture = describe(stream.getvalue(), f"{number}.jpg", "bench")
        found.append(Sample(id=f"{number:04}", pictures=(picture,), turns=turns, origin=Origin(source="bench")))
    return found


def prepare_folder(folder: Path, count: int, blocks: int | None = None) -> None:
    """Weights in both forms, and the rows as a store; `blocks`: of tower and decoder each, where not all."""
    from sightline.samples.store import Store

    write_model(folder, blocks)
    with Store.writer(folder / "rows") as writer:
        for sample in rows(count):
            writer.add(sample)


def _loaded(folder: Path) -> tuple[Any, Any]:
    from sightline.model import directory
    from sightline.model.processor import Processor

    model, processor, _ = directory.load(folder / "ours")
    return model, Processor(processor.config.model_copy(update={"chat": "plain"}), processor.tokenizer)


def rows_of(folder: Path) -> tuple[Any, Any, list[Any], Path]:
    """Model, processor, the rows encoded, and the folder of their pictures."""
    from sightline.samples.store import Store

    model, processor = _loaded(folder)
    store = Store.open(folder / "rows")
    return model, processor, [processor.encode(store[int(row)]) for row in store.kept], store.path


def _stage(steps: int, precision: str = "bfloat16", **said: Any) -> Any:
    from sightline.train.stage import StageConfig

    rate = {"learning_rate": RATE}
    return StageConfig.model_validate_json(
        json.dumps(
            {
                "name": "bench",
                "objective": "answer-likelihood",
                "data": {"rows": 1.0},
                "train": {"connector": rate, "language_model": rate},
                "batch": BATCH,
                "steps": steps,
                "schedule": "constant",
                "warmup": 0,
                "betas": [0.9, 0.999],
                "precision": precision,
                **said,
            }
        )
    )


def ours(folder: Path, steps: int, cached: bool, said: dict[str, Any]) -> dict[str, Any]:
    """One pass of our loop over the rows."""
    from sightline.data.mixture import Mixture, Share
    from sightline.samples.store import Store
    from sightline.train.feature_cache import build_cache
    from sightline.train.feeding import Feed
    from sightline.train.loop import train
    from sightline.train.stage import prepare
    from sightline.train.watch import Watch

    model, processor = _loaded(folder)
    stage, store = _stage(steps, **said), Store.open(folder / "rows")
    prepared = prepare(model, stage)
    features = None
    if cached:
        pictures = [(picture, store.path, 1) for row in store.kept for picture in store[int(row)].pictures]
        features = build_cache(folder / "features", model, "bench", processor, pictures, stage.precision, "features")
    objective = stage.objective.build()
    feed = Feed(Mixture([Share(name="rows", store=store, weight=1.0)]), processor, objective, stage, 0, features)
    wall, spent = time.monotonic(), _spent()
    outcome = train(model, prepared, objective, feed, stage, Watch(stage, lambda event: None), "ours")
    return _measured(outcome.steps * BATCH, wall, spent)


def _spent() -> float:
    """Processor seconds of this process and its ended children."""
    return sum(use.ru_utime + use.ru_stime for use in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)))


def _measured(samples: int, wall: float, spent: float) -> dict[str, Any]:
    seconds = _spent() - spent
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"samples": samples, "seconds": seconds, "wall": time.monotonic() - wall, "rate": samples / seconds, "peak_mib": peak}


class PeerRows:
    """The rows as the peer's data set: ids and labels made beforehand, pictures decoded when they are asked for."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        from sightline.model.packing import Encoded
        from sightline.samples.store import Store

        model, processor = _loaded(folder)
        tower = model.config.encoders[0].resolve()
        self.mean, self.std = (np.asarray(said, np.float32)[:, None, None] * 255 for said in (tower.mean, tower.std))
        store = Store.open(folder / "rows")
        self.root, self.rows = store.path, [store[int(row)] for row in store.kept[:limit]]
        encoded: list[Encoded] = [processor.encode(row) for row in self.rows]
        self.ids, self.labels = [], []
        for one in encoded:
            ids, labels = one.ids.copy(), np.full(len(one.ids), -100)
            ids[one.slots] = self.image_token(folder)
            labels[one.answers + 1] = one.targets
            self.ids.append(ids)
            self.labels.append(labels)

    @staticmethod
    def image_token(folder: Path) -> int:
        """The id at which the peer puts pictures."""
        return json.loads((folder / "theirs" / "config.json").read_text(encoding="utf-8"))["image_token_index"]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        from sightline.samples.pictures import pixels

        picture = pixels(self.rows[row].pictures[0], self.root).transpose(2, 0, 1).astype(np.float32)
        return {"input_ids": self.ids[row], "labels": self.labels[row], "pixel_values": (picture - self.mean) / self.std}


def padded(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows padded on the right to the longest."""
    import torch

    longest = max(len(row["input_ids"]) for row in batch)

    def filled(name: str, value: int) -> torch.Tensor:
        return torch.stack([torch.nn.functional.pad(torch.from_numpy(row[name]), (0, longest - len(row[name])), value=value) for row in batch])

    ids = filled("input_ids", 0)
    mask = torch.stack([torch.arange(longest) < len(row["input_ids"]) for row in batch])
    pictures = torch.stack([torch.from_numpy(row["pixel_values"]) for row in batch])
    return {"input_ids": ids, "labels": filled("labels", -100), "attention_mask": mask.long(), "pixel_values": pictures}


def _peer(folder: Path) -> Any:
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(folder / "theirs", attn_implementation="sdpa")
    model.model.vision_tower.requires_grad_(False)
    return model


def theirs(folder: Path, steps: int, workers: int) -> dict[str, Any]:
    """One pass of the peer over the rows."""
    from transformers import Trainer, TrainingArguments

    model, data = _peer(folder), PeerRows(folder)
    said = TrainingArguments(
        output_dir=str(folder / "peer"),
        per_device_train_batch_size=BATCH,
        max_steps=steps,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        bf16=True,
        use_cpu=True,
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        train_sampling_strategy="group_by_length",
        dataloader_num_workers=workers,
        remove_unused_columns=False,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=said, train_dataset=data, data_collator=padded)  # pyright: ignore[reportArgumentType]
    wall, spent = time.monotonic(), _spent()
    trainer.train()
    return _measured(steps * BATCH, wall, spent)


def first_step(folder: Path, precision: str) -> dict[str, list[float]]:
    """[ours, peer]: loss and gradient norm of the first rows as one batch."""
    import torch

    from sightline.train.objectives import AnswerLikelihood
    from sightline.train.stage import prepare

    model, processor = _loaded(folder)
    prepared = prepare(model, _stage(1))
    data = PeerRows(folder, BATCH)
    batch = processor.collate([[processor.encode(row) for row in data.rows]], root=data.root)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        loss = AnswerLikelihood().build()(model, batch).sums["answer"] / batch.weights.sum()
    loss.backward()
    peer = _peer(folder)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        other = peer(**padded([data[row] for row in range(BATCH)])).loss
    other.backward()
    norms = [float(torch.nn.utils.get_total_norm([p.grad for p in ps if p.grad is not None])) for ps in (prepared.trained.values(), peer.parameters())]
    return {"loss": [loss.item(), other.item()], "norm": norms}


def _run(folder: Path, *words: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    ended = subprocess.run([sys.executable, __file__, "--folder", str(folder), *words], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(words)}: {ended.stderr[-2000:]}")
    found = json.loads(ended.stdout.splitlines()[-1])
    print(" ".join(words), json.dumps(found), file=sys.stderr, flush=True)
    return found


def compare(folder: Path, pairs: int, steps: int, said: str) -> dict[str, Any]:
    """Sides in turn; medians of the pairs' ratios."""
    words = ("--steps", str(steps), "--said", said)
    prepare_folder(folder, BATCH * steps)
    firsts = {precision: _run(folder, "--side", "first", "--precision", precision) for precision in ("float32", "bfloat16")}
    _run(folder, "--side", "ours", "--cached", *words[:1], "1", *words[2:])
    workers = max(range(3), key=lambda count: _run(folder, "--side", "theirs", "--workers", str(count), "--steps", str(min(2, steps)))["rate"])
    found: dict[str, list[dict[str, Any]]] = {"theirs": [], "ours": [], "cached": []}
    for _ in range(pairs):
        found["theirs"].append(_run(folder, "--side", "theirs", "--workers", str(workers), *words[:2]))
        found["ours"].append(_run(folder, "--side", "ours", *words))
        found["cached"].append(_run(folder, "--side", "ours", "--cached", *words))
    ratio = lambda side, key: statistics.median(own[key] / other[key] for own, other in zip(found[side], found["theirs"]))  # noqa: E731
    differences = {name: abs(math.log(values[0] / values[1])) for name, values in firsts["float32"].items()}
    return {
        "ratio": ratio("ours", "rate"),
        "ours": statistics.median(one["rate"] for one in found["ours"]),
        "peer": statistics.median(one["rate"] for one in found["theirs"]),
        "cached_ratio": ratio("cached", "rate"),
        "peak_memory_ratio": ratio("ours", "peak_mib"),
        "cached_peak_memory_ratio": ratio("cached", "peak_mib"),
        "unit": "samples per processor second",
        "first": firsts,
        "first_equal": all(value < 1e-4 for value in differences.values()),
        "workers": workers,
        "pairs": pairs,
        "steps": steps,
        "machine": platform.processor() or platform.machine(),
        "bars": BARS,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, or measure one side; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=["ours", "theirs", "first"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--cached", action="store_true")
    parser.add_argument("--said", default='{"tokens": 1536}', help="settings of our stage, as JSON")
    told = parser.parse_args(argv)
    if told.side:
        assert told.folder is not None
        one = {
            "ours": lambda: ours(told.folder, told.steps, told.cached, json.loads(told.said)),
            "theirs": lambda: theirs(told.folder, told.steps, told.workers),
            "first": lambda: first_step(told.folder, told.precision),
        }[told.side]()
        print(json.dumps(one))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        found = compare(told.folder or Path(scratch), told.pairs, told.steps, told.said)
    print(json.dumps(found))
    missed = found["ratio"] < BARS["ratio"] or found["cached_ratio"] < BARS["cached_ratio"] or found["peak_memory_ratio"] > BARS["peak_memory_ratio"]
    return int(missed or not found["first_equal"])


if __name__ == "__main__":
    sys.exit(main())

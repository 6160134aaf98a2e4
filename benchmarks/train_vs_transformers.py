"""Training beside transformers.Trainer: the same weights, rows and mathematics on the same machine, in turn. The last line is one JSON object.

Workload A: a CLIP ViT of 12 blocks of 384 on 224 px (196 tokens a picture), frozen; a Qwen2 of 8 blocks of 512 with 32,000 tokens and a connector, trained; batches of 8; texts of
log-normal(4.3, 0.7) tokens, clipped to 24..480, of which 20 to 70 % are the answer; bfloat16 autocast over float32 weights, fused AdamW, gradient norm clipped to 1.

The peer is LlavaForConditionalGeneration on our exported weights: padded to the longest, length-grouped, sdpa, the best of 0, 1 and 2 loading workers. Every side runs in a process of its own; both
are timed by processor time, which other work on the machine does not change, and by their peak resident memory. Both train two epochs over the same rows, and the second is timed.

Workload B, for a GPU, is `--workload B --size 1.5B`: see workload_b.py.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sides import Side, measured, median, processor_seconds, ratios, run_side, spread
from workload_a import WORDS, write_model

from sightline.samples.pictures import describe
from sightline.samples.sample import Origin, Sample, Show, Text, Turn

BATCH = 8
RATE = 1e-5
PAIRS, STEPS = 5, 6
SAID = '{"tokens": 1536}'
"""Settings of our stage."""
BARS = {"ratio": 2.0, "cached_ratio": 3.0, "peak_memory_ratio": 0.65}
"""Samples per second, at least; with cached features, at least; peak memory, at most: ours over the peer's."""


LENGTHS = (4.3, 0.7, 24, 480)
"""Of texts: mean and standard deviation of the logarithm, smallest and largest number of tokens."""


def rows(count: int, seed: int = 0, side: int = 224, lengths: tuple[float, float, int, int] = LENGTHS) -> list[Sample]:
    """Rows of the workload's lengths, `side` px wide and high; every picture is shown once."""
    rng = np.random.default_rng(seed)
    mean, deviation, least, most = lengths
    found = []
    for number in range(count):
        total = int(np.clip(rng.lognormal(mean, deviation), least, most))
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


def stage_of(steps: int, precision: str = "bfloat16", **said: Any) -> Any:
    """The stage of a side: connector and language model are trained; `said` are settings of its own."""
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


def ours(folder: Path, steps: int, cached: bool, said: dict[str, Any]) -> Side:
    """Two epochs of `steps` steps by our loop, the second of them timed."""
    from sightline.data.mixture import Mixture, Share
    from sightline.samples.store import Store
    from sightline.train.feature_cache import build_cache
    from sightline.train.feeding import Feed
    from sightline.train.loop import train
    from sightline.train.stage import prepare
    from sightline.train.switches import throw
    from sightline.train.watch import Watch

    model, processor = _loaded(folder)
    stage, store = stage_of(2 * steps, **said), Store.open(folder / "rows")
    prepared = prepare(model, stage)
    throw(model, stage)
    features = None
    if cached:
        pictures = [(picture, store.path, 1) for row in store.kept for picture in store[int(row)].pictures]
        features = build_cache(folder / "features", model, "bench", processor, pictures, stage.precision, "features")
    objective = stage.objective.build()
    feed = Feed(Mixture([Share(name="rows", store=store, weight=1.0)]), processor, objective, stage, 0, features)
    second = _Second(steps)
    watch = Watch(stage, lambda event: None)
    watch.due = second.ours  # told of every step, behind its update
    train(model, prepared, objective, feed, stage, watch, "ours")
    return measured(steps * BATCH, *second.began)


class _Second:
    """When the second epoch of a side began: its first one pays for first touches of memory, for kernels of new shapes, and, on our side, for checks that a stage makes once."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.began = (0.0, 0.0)

    def ours(self, step: int, steps: int) -> bool:
        """Whether a step is recorded: the last one is."""
        if step + 1 == self.steps:
            self.began = (time.monotonic(), processor_seconds())
        return step + 1 == steps

    def theirs(self) -> Any:
        """The peer's callback."""
        from transformers import TrainerCallback

        second = self

        class Callback(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.global_step == second.steps:
                    second.began = (time.monotonic(), processor_seconds())

        return Callback()


class PeerRows:
    """The rows as the peer's data set: ids and labels made beforehand, pictures decoded when they are asked for."""

    def __init__(self, processor: Any, store: Any, image_token: int, limit: int | None = None) -> None:
        from sightline.model.packing import Encoded

        tower = processor.config.encoders[0].resolve()
        self.mean, self.std = (np.asarray(said, np.float32)[:, None, None] * 255 for said in (tower.mean, tower.std))
        self.root, self.rows = store.path, [store[int(row)] for row in store.kept[:limit]]
        encoded: list[Encoded] = [processor.encode(row) for row in self.rows]
        self.ids, self.labels = [], []
        for one in encoded:
            ids, labels = one.ids.copy(), np.full(len(one.ids), -100)
            ids[one.slots] = image_token
            labels[one.answers + 1] = one.targets
            self.ids.append(ids)
            self.labels.append(labels)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Ids alone: grouping by length walks over all rows once, and would decode every picture."""
        return ({"input_ids": ids} for ids in self.ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        from sightline.samples.pictures import pixels

        picture = pixels(self.rows[row].pictures[0], self.root).transpose(2, 0, 1).astype(np.float32)
        return {"input_ids": self.ids[row], "labels": self.labels[row], "pixel_values": (picture - self.mean) / self.std}


def _peer_rows(folder: Path, limit: int | None = None) -> PeerRows:
    from sightline.samples.store import Store

    _, processor = _loaded(folder)
    token = json.loads((folder / "theirs" / "config.json").read_text(encoding="utf-8"))["image_token_index"]
    return PeerRows(processor, Store.open(folder / "rows"), token, limit)


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


def peer_arguments(folder: Path, steps: int, workers: int, **more: Any) -> Any:
    """What every peer's Trainer is told: our rate, clipping and optimizer, rows grouped by length, nothing written or logged."""
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(folder / "peer"),
        max_steps=steps,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        bf16=True,
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        train_sampling_strategy="group_by_length",
        dataloader_num_workers=workers,
        remove_unused_columns=False,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **more,
    )


def theirs(folder: Path, steps: int, workers: int) -> Side:
    """Two epochs of `steps` steps by the peer, the second of them timed."""
    from transformers import Trainer

    data = _peer_rows(folder)  # first: what it loads on the way is freed before the peer is there
    model = _peer(folder)
    said = peer_arguments(folder, 2 * steps, workers, per_device_train_batch_size=BATCH, use_cpu=True)
    second = _Second(steps)
    trainer = Trainer(model=model, args=said, train_dataset=data, data_collator=padded, callbacks=[second.theirs()])  # pyright: ignore[reportArgumentType]
    trainer.train()
    return measured(steps * BATCH, *second.began)


def first_step(folder: Path, precision: str) -> dict[str, list[float]]:
    """[ours, peer]: loss and gradient norm of the first rows as one batch."""
    import torch

    from sightline.train.objectives import AnswerLikelihood
    from sightline.train.stage import prepare

    model, processor = _loaded(folder)
    prepared = prepare(model, stage_of(1))
    data = _peer_rows(folder, BATCH)
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


def compare(folder: Path, pairs: int, steps: int, said: str) -> dict[str, Any]:
    """Sides in turn; medians and spreads of the pairs' ratios."""

    def run(side: str, *words: str) -> Side:
        return run_side(Path(__file__), "--side", side, "--folder", str(folder), *words)

    words = ("--steps", str(steps), "--said", said)
    prepare_folder(folder, BATCH * steps)
    firsts = {precision: run("first", "--precision", precision) for precision in ("float32", "bfloat16")}
    run("ours", "--cached", "--steps", "1", "--said", said)
    workers = max(range(3), key=lambda count: run("theirs", "--workers", str(count), "--steps", str(min(2, steps)))["rate"])
    found: dict[str, list[Side]] = {"theirs": [], "ours": [], "cached": []}
    for _ in range(pairs):
        found["theirs"].append(run("theirs", "--workers", str(workers), "--steps", str(steps)))
        found["ours"].append(run("ours", *words))
        found["cached"].append(run("ours", "--cached", *words))
    spreads = {
        name: spread(ratios(found[side], found["theirs"], key))
        for name, side, key in (
            ("ratio", "ours", "rate"),
            ("cached_ratio", "cached", "rate"),
            ("peak_memory_ratio", "ours", "peak_mib"),
            ("cached_peak_memory_ratio", "cached", "peak_mib"),
        )
    }
    return {
        "ratio": spreads["ratio"]["median"],
        "ours": median(found["ours"], "rate"),
        "peer": median(found["theirs"], "rate"),
        **{name: spreads[name]["median"] for name in spreads if name != "ratio"},
        "spreads": spreads,
        "unit": "samples per processor second",
        "first": firsts,
        "first_equal": equal(firsts["float32"]),
        "workers": workers,
        "pairs": pairs,
        "steps": steps,
        "machine": platform.processor() or platform.machine(),
        "bars": BARS,
    }


def equal(first: dict[str, list[float]]) -> bool:
    """Whether the first steps of both sides are the same to 1e-4."""
    return all(abs(math.log(values[0] / values[1])) < 1e-4 for values in first.values())


def _told(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=["A", "B"], default="A")
    parser.add_argument("--side", choices=["ours", "theirs", "first"], help="measure this one alone, in a folder that was prepared")
    parser.add_argument("--folder", type=Path, help="of weights and rows; default: a temporary one")
    parser.add_argument("--pairs", type=int, help="of measurements (default: 5; of workload B 3)")
    parser.add_argument("--steps", type=int, help="of a measurement (default: 6; of workload B 8)")
    parser.add_argument("--workers", type=int, help="loading workers of the peer's side alone (default: 0); of workload B altogether (default: 4)")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--cached", action="store_true", help="our side from the cache of features")
    parser.add_argument("--said", help="settings of our stage, as JSON")
    parser.add_argument("--size", default="1.5B", help="of workload B: 1.5B, 7B or toy")
    parser.add_argument("--micro", type=int, default=1, help="of workload B: rows per forward of the peer's side alone")
    parser.add_argument("--hardware", default="H200", help="of workload B: whose peak utilisation is a share of (default: %(default)s)")
    told = parser.parse_args(argv)
    for name, of_a, of_b in (("pairs", PAIRS, 3), ("steps", STEPS, 8), ("workers", 0, 4), ("said", SAID, "{}")):
        if getattr(told, name) is None:
            setattr(told, name, of_a if told.workload == "A" else of_b)
    assert told.side is None or told.folder is not None, "--side needs --folder"
    return told


def _measure_one(told: argparse.Namespace) -> Side | dict[str, list[float]]:
    if told.workload == "B":
        import workload_b

        return workload_b.measure_one(told)
    return {
        "ours": lambda: ours(told.folder, told.steps, told.cached, json.loads(told.said)),
        "theirs": lambda: theirs(told.folder, told.steps, told.workers),
        "first": lambda: first_step(told.folder, told.precision),
    }[told.side]()


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, or measure one side; 1 when a bar is missed or the first steps differ."""
    told = _told(argv)
    if told.side:
        print(json.dumps(_measure_one(told)))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = told.folder or Path(scratch)
        if told.workload == "B":
            import workload_b

            found = workload_b.compare(folder, told)
            print(json.dumps(found))
            return int(not found["first_equal"])
        found = compare(folder, told.pairs, told.steps, told.said)
    print(json.dumps(found))
    missed = found["ratio"] < BARS["ratio"] or found["cached_ratio"] < BARS["cached_ratio"] or found["peak_memory_ratio"] > BARS["peak_memory_ratio"]
    return int(missed or not found["first_equal"])


if __name__ == "__main__":
    sys.exit(main())

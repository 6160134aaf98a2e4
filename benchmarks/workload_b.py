"""Workload B: CLIP ViT-L/14 on 336 px (576 tokens a picture), frozen; Qwen2.5-1.5B or 7B and a connector of two layers, trained; texts of log-normal(5.0, 0.8) tokens, clipped to 32..1500, of which 20
to 70 % are the answer; bfloat16 autocast over float32 weights, fused AdamW, gradient norm clipped to 1. Pictures are encoded at every step: there is no cache. For one GPU of 141 GB.

`python benchmarks/train_vs_transformers.py --workload B --size 1.5B`. Weights are random and made on the device, each tensor from its own name, so that both sides have the same ones and none is written.
The time of a step is wall-clock, taken when the device has done it; the first steps are left out. Utilisation: FLOPs that the real tokens need (no padding, no recomputation, the head at answers alone)
over the peak of the hardware in plan_hardware.yaml. The peer takes the largest micro-batch that the memory holds. `--size toy` is for trying out without a GPU.
"""

from __future__ import annotations

import gc
import json
import platform
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sides import Side, median, peak_mib, ratios, run_side, spread
from torch import Tensor, nn
from train_vs_transformers import PeerRows, equal, padded, peer_arguments, rows, stage_of
from transformers import TrainerCallback
from workload_a import SEEN

LENGTHS = (5.0, 0.8, 32, 1500)
CLIP_L = {
    "model_type": "clip_vision_model",
    "image_size": 336,
    "patch_size": 14,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
QWEN = {"model_type": "qwen2", "max_position_embeddings": 32768, "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}, "rms_norm_eps": 1e-6}
ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


@dataclass(frozen=True, kw_only=True)
class Size:
    """A language model of the workload, and how it is trained."""

    decoder: dict[str, Any]
    batch: int
    said: dict[str, Any]
    """Settings of our stage."""
    micro: tuple[int, ...]
    """Rows per forward of the peer, as it is tried."""
    recompute: bool
    """Whether the peer recomputes activations, as our stage does."""
    tower: dict[str, Any]


SIZES = {
    "1.5B": Size(
        decoder={
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
        },
        batch=64,
        said={"tokens": 16384},
        micro=(32, 16, 8, 4),
        recompute=False,
        tower=CLIP_L,
    ),
    "7B": Size(
        decoder={
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "tie_word_embeddings": False,
        },
        batch=32,
        said={"tokens": 4096, "recompute": True},
        micro=(8, 4, 2, 1),
        recompute=True,
        tower=CLIP_L,
    ),
    "toy": Size(
        decoder={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 1000,
            "tie_word_embeddings": True,
        },
        batch=4,
        said={"tokens": 1024, "recompute": True},
        micro=(2,),
        recompute=True,
        tower=CLIP_L | {"image_size": 56, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2},
    ),
}
Ready = tuple[nn.Module, Callable[[], Tensor]]
"""A model, and its loss of the first rows."""
FIRST_ROWS, FIRST_STEPS = 2, 2
"""Rows of the batch whose loss and gradient are compared, and steps that are not timed."""


def device() -> str:
    """Where both sides train."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def prepare_folder(folder: Path, size: str, count: int) -> None:
    """The tokenizer, and the rows as a store."""
    from sightline.model.chat import chat_format
    from sightline.model.tokens import train_tokenizer
    from sightline.samples.store import Store

    chat = chat_format("plain")
    train_tokenizer([SEEN], 600, chat).save(folder)
    with Store.writer(folder / "rows") as writer:
        for sample in rows(count, side=SIZES[size].tower["image_size"], lengths=LENGTHS):
            writer.add(sample)


def opened(folder: Path, size: str) -> tuple[Any, Any]:
    """(processor, store)."""
    from sightline.model.assembly import ModelConfig
    from sightline.model.chat import chat_format
    from sightline.model.connectors import MlpConnector
    from sightline.model.encoders import EncoderConfig
    from sightline.model.language import LanguageModelConfig
    from sightline.model.processor import Processor
    from sightline.model.tiling import WholeTiler
    from sightline.model.tokens import TextTokenizer
    from sightline.samples.store import Store

    config = ModelConfig(
        encoders=[EncoderConfig(config=SIZES[size].tower, layer=-2)],
        tiler=WholeTiler(size=SIZES[size].tower["image_size"]),
        connector=MlpConnector(depth=2),
        language_model=LanguageModelConfig(config=QWEN | ENDS | SIZES[size].decoder, attention="sdpa"),
        chat="plain",
        max_tokens=4096,
    ).resolve()
    return Processor(config, TextTokenizer.load(folder, chat_format("plain").end)), Store.open(folder / "rows")


# the same random weights on both sides


def seeded(name: str, tied: bool, like: Tensor) -> Tensor:
    """Numbers that follow from the name of a tensor of ours, its shape and the device; a tied head has those of the embeddings."""
    named = name.replace("lm_head.", "model.embed_tokens.") if tied else name
    generator = torch.Generator(like.device).manual_seed(zlib.crc32(named.encode()))
    drawn = torch.empty_like(like).normal_(0.0, 0.02, generator=generator)
    *_, owner, kind = name.split(".")
    return drawn + 1 if "norm" in owner and kind == "weight" else drawn


def ours_on(processor: Any, place: str) -> Any:
    """Our model with seeded weights."""
    from sightline.model.vlm import Model

    with torch.device(place):
        model = Model(processor.config)
    tied = processor.config.language_model.block()["tie_word_embeddings"]
    for path, part in model.parts().items():
        own = part.state_dict()
        # one part at a time: copies of all parts at once would not fit beside them
        part.load_state_dict({name: seeded(f"{path}.{name}", tied, tensor) if tensor.is_floating_point() else tensor for name, tensor in own.items()})
    return model


@torch.no_grad()
def peer_on(processor: Any, place: str) -> Any:
    """LlavaForConditionalGeneration of the same config with the same weights, its tower frozen."""
    from transformers import AutoConfig, LlavaForConditionalGeneration

    from sightline.model.native.key_rules import moves_in
    from sightline.model.native.native_table import NATIVE_FORMATS

    form, config = NATIVE_FORMATS["llava"], processor.config
    written = form.write(config, lambda token: processor.tokenizer.size).config
    with torch.device(place):
        model: Any = LlavaForConditionalGeneration._from_config(AutoConfig.for_model(**written), attn_implementation="sdpa", dtype=torch.float32)
    held = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    tied = written["tie_word_embeddings"]
    for move in moves_in(form.rules(config), held, "peer"):
        [theirs], [ours] = move.theirs, move.ours
        held[theirs].copy_(seeded(ours, tied, held[theirs]))
    model.model.vision_tower.requires_grad_(False)
    return model


# one pass


class Clock:
    """When optimizer steps ended, the device's work included."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.ends: list[float] = []
        if place == "cuda":
            gc.collect()
            torch.cuda.empty_cache()  # what filling the weights took on the way
            torch.cuda.reset_peak_memory_stats()

    def tick(self) -> None:
        """A step has ended."""
        if self.place == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def figures(self, batch: int) -> Side:
        """Samples per second after the first steps, and the peak of memory: the device's where there is one, else the process's."""
        skipped = min(FIRST_STEPS, len(self.ends) - 1)
        assert skipped > 0, "at least two steps"
        timed = len(self.ends) - skipped
        seconds = self.ends[-1] - self.ends[skipped - 1]
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.place == "cuda" else peak_mib()
        reserved = torch.cuda.max_memory_reserved() / 2**20 if self.place == "cuda" else peak
        return {"samples": timed * batch, "wall": seconds, "rate": timed * batch / seconds, "peak_mib": peak, "reserved_mib": reserved}


def ours(folder: Path, size: str, steps: int, said: dict[str, Any]) -> Side:
    """Our loop over the rows."""
    from sightline.data.mixture import Mixture, Share
    from sightline.train.feeding import Feed
    from sightline.train.loop import train
    from sightline.train.objectives import AnswerLikelihood, AnswerLikelihoodObjective
    from sightline.train.stage import prepare
    from sightline.train.switches import throw
    from sightline.train.watch import Watch

    class Timed(AnswerLikelihoodObjective):
        """The objective, that looks at the clock after every step."""

        def after_step(self, model: Any) -> None:
            clock.tick()

    chosen, place = SIZES[size], device()
    processor, store = opened(folder, size)
    model = ours_on(processor, place)
    stage = stage_of(steps, **{**chosen.said, "batch": chosen.batch, **said})
    prepared, objective = prepare(model, stage), Timed(AnswerLikelihood())
    throw(model, stage)
    feed = Feed(Mixture([Share(name="rows", store=store, weight=1.0)]), processor, objective, stage, 0, None)
    clock = Clock(place)
    train(model, prepared, objective, feed, stage, Watch(stage, lambda event: None), "ours")
    return clock.figures(stage.batch)


def theirs(folder: Path, size: str, steps: int, micro: int, workers: int) -> Side:
    """The peer over the rows; `memory`: False where the device's memory does not hold it."""
    from transformers import Trainer

    class Ticks(TrainerCallback):
        """Looks at the clock after every optimizer step."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    chosen, place = SIZES[size], device()
    processor, store = opened(folder, size)
    data, model = PeerRows(processor, store, processor.tokenizer.size), peer_on(processor, place)
    said = peer_arguments(
        folder,
        steps,
        workers,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=chosen.batch // micro,
        gradient_checkpointing=chosen.recompute,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        use_cpu=place == "cpu",
    )
    clock = Clock(place)
    trainer = Trainer(model=model, args=said, train_dataset=data, data_collator=padded, callbacks=[Ticks()])  # pyright: ignore[reportArgumentType]
    try:
        trainer.train()
    except torch.cuda.OutOfMemoryError as error:
        return {"memory": False, "said": str(error).splitlines()[0]}
    return {"memory": True, **clock.figures(chosen.batch)}


def first_step(folder: Path, size: str, precision: str) -> dict[str, list[float]]:
    """[ours, peer]: loss and gradient norm of the first rows as one batch, one model after the other."""
    from sightline.model.batch import to_device
    from sightline.train.objectives import AnswerLikelihood
    from sightline.train.stage import prepare

    place = device()
    processor, store = opened(folder, size)
    data = PeerRows(processor, store, processor.tokenizer.size, FIRST_ROWS)

    def ours_ready() -> Ready:
        model = ours_on(processor, place)
        prepare(model, stage_of(1))
        batch = to_device(processor.collate([[processor.encode(row) for row in data.rows]], root=data.root), place)
        return model, lambda: AnswerLikelihood().build()(model, batch).sums["answer"] / batch.weights.sum()

    def peer_ready() -> Ready:
        model = peer_on(processor, place)
        batch = {name: tensor.to(place) for name, tensor in padded([data[row] for row in range(FIRST_ROWS)]).items()}
        return model, lambda: model(**batch).loss

    found = [_loss_and_norm(side, place, precision) for side in (ours_ready, peer_ready)]
    return {"loss": [loss for loss, _ in found], "norm": [norm for _, norm in found]}


def _loss_and_norm(side: Callable[[], Ready], place: str, precision: str) -> tuple[float, float]:
    """Of one model, which is gone afterwards."""
    model, forward = side()
    with torch.autocast(place, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        loss = forward()
    loss.backward()
    found = loss.item(), float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
    del model, forward, loss
    gc.collect()
    if place == "cuda":
        torch.cuda.empty_cache()
    return found


def flops_per_sample(folder: Path, size: str) -> float:
    """Mean over the rows, forward and backward."""
    from sightline.model.native.native_weights import blank
    from sightline.plan_time import attention_flops, work_of
    from sightline.train.stage import prepare

    processor, store = opened(folder, size)
    model = blank(processor.config)
    prepare(model, stage_of(1))
    work = work_of(model)
    encoder, tower, decoder = processor.config.encoders[0], SIZES[size].tower, processor.config.language_model.block()
    seen = (tower["image_size"] // tower["patch_size"]) ** 2
    picture = (seen + 1) * work[encoder.path].both + seen * work["connector"].both + attention_flops(tower, seen + 1, causal=False)

    def of_rows() -> Iterator[float]:
        for row in store.kept:
            encoded = processor.encode(store[int(row)])
            text = len(encoded.ids) * work["language_model"].both + 3 * attention_flops(decoder, len(encoded.ids), causal=True)
            yield picture + text + len(encoded.targets) * work["head"].both

    found = list(of_rows())
    return sum(found) / len(found)


def measure_one(told: Any) -> Any:
    """The side that the command line names."""
    said = json.loads(told.said or "{}")
    return {
        "ours": lambda: ours(told.folder, told.size, told.steps, said),
        "theirs": lambda: theirs(told.folder, told.size, told.steps, told.micro, told.workers),
        "first": lambda: first_step(told.folder, told.size, told.precision),
    }[told.side]()


def compare(folder: Path, told: Any) -> dict[str, Any]:
    """Sides in turn; medians and spreads of the pairs' ratios. Where the peer fits with no micro-batch, ours alone: `ratio` and `peer` are then None."""
    from sightline.plan_time import hardware

    chosen, script = SIZES[told.size], Path(__file__).with_name("train_vs_transformers.py")

    def run(side: str, *words: str) -> Side:
        return run_side(script, "--workload", "B", "--size", told.size, "--side", side, "--folder", str(folder), *words)

    prepare_folder(folder, told.size, chosen.batch * told.steps)
    firsts = {precision: run("first", "--precision", precision) for precision in ("float32", "bfloat16")}
    tuning = (("--micro", str(micro), "--workers", str(told.workers), "--steps", "2") for micro in chosen.micro)
    micro = next((words[1] for words in tuning if run("theirs", *words)["memory"]), None)
    found: dict[str, list[Side]] = {"theirs": [], "ours": []}
    for _ in range(told.pairs):
        if micro is not None:
            found["theirs"].append(run("theirs", "--micro", micro, "--workers", str(told.workers), "--steps", str(told.steps)))
        found["ours"].append(run("ours", "--steps", str(told.steps), "--said", told.said or "{}"))
    work, peak = flops_per_sample(folder, told.size), hardware(told.hardware)
    rates = {side: median(passes, "rate") if passes else None for side, passes in found.items()}
    spreads = {name: spread(ratios(found["ours"], found["theirs"], key)) for name, key in (("ratio", "rate"), ("peak_memory_ratio", "peak_mib")) if micro}
    return {
        "ratio": spreads["ratio"]["median"] if micro else None,
        "ours": rates["ours"],
        "peer": rates["theirs"],
        "unit": "samples per second",
        "peak_memory_ratio": spreads["peak_memory_ratio"]["median"] if micro else None,
        "spreads": spreads,
        "peak_mib": {side: median(passes, "peak_mib") for side, passes in found.items() if passes},
        "utilisation": {side: rate * work / peak.flops for side, rate in rates.items() if rate is not None},
        "flops_per_sample": work,
        "hardware": peak.said,
        "first": firsts,
        "first_equal": equal(firsts["float32"]),
        "micro": int(micro) if micro else None,
        "size": told.size,
        "pairs": told.pairs,
        "steps": told.steps,
        "device": torch.cuda.get_device_name() if device() == "cuda" else platform.processor() or platform.machine(),
    }


if __name__ == "__main__":
    sys.exit("start it as: python benchmarks/train_vs_transformers.py --workload B --size 1.5B")

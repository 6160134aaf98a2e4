"""Contrastive training beside open_clip: the same towers, weights, pairs and loss on the same machine, in turn. The last line is one JSON object.

A ViT of 12 blocks of 384 on 224 px in patches of 16, a causal text tower of 8 blocks of 256 with CLIP's 49,408 tokens and 77 positions, a joint space of 256, both trained; texts of log-normal(2.6, 0.35)
words, clipped to 5..70; bfloat16 autocast over float32 weights (open_clip's amp_bf16), AdamW with betas 0.9 and 0.98, gradient norm clipped to 1.

The peer is open_clip's own `train_one_epoch` in one process, where nothing is gathered: its transform without augmentation, texts padded to its 77 tokens as it always does and tokenised beforehand, our
fused AdamW in its parameter groups, the best of 0, 1 and 2 loading workers. Every side runs in a process of its own. open_clip and torchvision go into a folder of their own, from which the peer alone imports.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import io
import json
import logging
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image
from sides import Side, measured, median, processor_seconds, ratios, run_side, spread
from workload_a import WORDS

from sightline.samples.pictures import describe
from sightline.samples.sample import Origin, Sample, Show, Text, Turn

VISION: dict[str, Any] = {"image_size": 224, "layers": 12, "width": 384, "head_width": 64, "patch_size": 16}
TEXT: dict[str, Any] = {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 8}
JOINT = 256
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
BATCH, PAIRS, STEPS = 32, 5, 4
RATE, DECAY, BETAS = 1e-4, 0.2, (0.9, 0.98)
PACKAGES = ("open_clip_torch==3.3.0", "timm==1.0.31", "ftfy==6.3.1", "wcwidth", "regex", "huggingface_hub", "safetensors", "tqdm", "pyyaml")
"""Of what these need, torch and numpy are ours."""


class NoPeer(Exception):
    """open_clip cannot be had here."""


# the folder of packages


def default_env() -> Path:
    """Where open_clip is kept: one folder per version of torch, whose partner torchvision is."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "sightline-benchmarks" / f"open-clip-torch-{importlib.metadata.version('torch').partition('+')[0]}"


def torchvision_of(torch_version: str) -> str:
    """The requirement that belongs to a torch: 0.28 to 2.13, 0.26 to 2.11."""
    major, minor, *_ = torch_version.split(".")
    if major != "2":
        raise NoPeer(f"no torchvision is known for torch {torch_version}")
    return f"torchvision==0.{int(minor) + 15}.*"


def make_env(folder: Path, pip: Sequence[str] = (sys.executable, "-m", "pip")) -> Path:
    """The folder with open_clip in it, filled once (some 40 MB, nothing of CUDA). NoPeer with the installer's message where that fails."""
    if (folder / "open_clip").is_dir():
        return folder
    wanted = [*PACKAGES, torchvision_of(importlib.metadata.version("torch"))]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        ended = subprocess.run(
            [*pip, "install", "--quiet", "--no-compile", "--no-deps", "--target", str(made), *wanted], capture_output=True, text=True, check=False
        )
        if ended.returncode:
            raise NoPeer(f"open_clip could not be installed into {folder}: {ended.stderr.strip()[-1000:] or f'exit code {ended.returncode}'}")
        made.rename(folder)
    return folder


# what both sides read


def pairs(count: int, seed: int = 0, side: int = 224) -> list[tuple[bytes, str]]:
    """Pictures of noise as JPEG, and their texts."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(stream, "JPEG")
        found.append((stream.getvalue(), " ".join(rng.choice(WORDS, int(np.clip(rng.lognormal(2.6, 0.35), 5, 70))))))
    return found


def weights(vision: dict[str, Any], text: dict[str, Any], joint: int) -> dict[str, Any]:
    """Random tensors in open_clip's layout, at about its own scale."""
    import torch

    grid = vision["image_size"] // vision["patch_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "visual.conv1.weight": (vision["width"], 3, vision["patch_size"], vision["patch_size"]),
        "visual.class_embedding": (vision["width"],),
        "visual.positional_embedding": (grid * grid + 1, vision["width"]),
        "visual.proj": (vision["width"], joint),
        "token_embedding.weight": (text["vocab_size"], text["width"]),
        "positional_embedding": (text["context_length"], text["width"]),
        "text_projection": (text["width"], joint),
    }
    norms = {"visual.ln_pre": vision["width"], "visual.ln_post": vision["width"], "ln_final": text["width"]}
    for head, tower in (("visual.transformer.", vision), ("transformer.", text)):
        width = tower["width"]
        for layer in range(tower["layers"]):
            block = f"{head}resblocks.{layer}."
            linear = {"attn.in_proj_": (3 * width, width), "attn.out_proj.": (width, width), "mlp.c_fc.": (4 * width, width), "mlp.c_proj.": (width, 4 * width)}
            for name, shape in linear.items():
                shapes |= {f"{block}{name}weight": shape, f"{block}{name}bias": shape[:1]}
            norms |= {f"{block}ln_1": width, f"{block}ln_2": width}
    generator = torch.Generator().manual_seed(0)
    found = {name: 0.03 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    found |= {f"{name}.weight": torch.ones(width) for name, width in norms.items()} | {f"{name}.bias": torch.zeros(width) for name, width in norms.items()}
    return found | {"logit_scale": torch.tensor(math.log(1 / 0.07))}


def tokenizer(vocabulary: int) -> Any:
    """Whole words under low ids; begin and end are the two highest ids, by which CLIP finds the end of a text."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    from sightline.model.tokens import PAD, TextTokenizer

    words = {PAD: 0, **{word: 1 + number for number, word in enumerate(dict.fromkeys(WORDS))}, BEGIN: vocabulary - 2, END: vocabulary - 1}
    made = Tokenizer(models.WordLevel(words, unk_token=PAD))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, BEGIN, END)])
    return TextTokenizer(made.to_str(), END, PAD, controls=(BEGIN,))


def prepare_folder(folder: Path, count: int, blocks: int | None = None) -> None:
    """`weights` in open_clip's layout, `rows` as our store; `pictures` and `texts.json` (ids by row) for the peer. `blocks`: of both towers each, where not all."""
    from safetensors.torch import save_file

    from sightline.samples.store import Store

    vision, text = ({**tower, "layers": blocks or tower["layers"]} for tower in (VISION, TEXT))
    (folder / "weights").mkdir()
    (folder / "pictures").mkdir()
    said = {"model_cfg": {"embed_dim": JOINT, "vision_cfg": vision, "text_cfg": text}}
    (folder / "weights" / "open_clip_config.json").write_text(json.dumps(said), encoding="utf-8")
    save_file(weights(vision, text, JOINT), folder / "weights" / "open_clip_model.safetensors")
    words, texts = tokenizer(text["vocab_size"]), []
    with Store.writer(folder / "rows") as writer:
        for number, (picture, caption) in enumerate(pairs(count, side=vision["image_size"])):
            (folder / "pictures" / f"{number:05}.jpg").write_bytes(picture)
            texts.append([words.control(BEGIN), *words.encode(caption), words.end_id])
            turns = (Turn(role="user", items=(Show(picture=0),)), Turn(role="assistant", items=(Text(text=caption),)))
            writer.add(Sample(id=f"{number:05}", pictures=(describe(picture, f"{number}.jpg", "bench"),), turns=turns, origin=Origin(source="bench")))
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")


# ours


def _loaded(folder: Path) -> tuple[Any, Any]:
    import torch

    from sightline.model.assembly import ModelConfig
    from sightline.model.encoders import EncoderConfig, Read
    from sightline.model.processor import Processor
    from sightline.model.text_tower import TextEncoderConfig
    from sightline.model.tiling import WholeTiler
    from sightline.model.vlm import Model

    checkpoint = str(folder / "weights")
    config = ModelConfig(
        encoders=[EncoderConfig(checkpoint=checkpoint, reads={"text_encoder": Read(lead="keep", final_norm=True)})],
        tiler=WholeTiler(size=VISION["image_size"]),
        text_encoder=TextEncoderConfig(checkpoint=checkpoint, width=JOINT, pictures="first", begin=BEGIN),
    ).resolve()
    torch.manual_seed(0)
    model = Model(config)
    return model, Processor(config, tokenizer(TEXT["vocab_size"]))


def _stage(batch: int, steps: int, said: dict[str, Any]) -> Any:
    from sightline.train.stage import StageConfig

    rate = {"learning_rate": RATE}
    return StageConfig.model_validate_json(
        json.dumps(
            {
                "name": "bench",
                "objective": "contrastive",
                "data": {"rows": 1.0},
                "train": {"encoders": rate, "text_encoder": rate},
                "batch": batch,
                "steps": steps,
                "schedule": "constant",
                "warmup": 0,
                "weight_decay": DECAY,
                "betas": BETAS,
                **said,
            }
        )
    )


def ours(folder: Path, batch: int, steps: int, said: dict[str, Any]) -> Side:
    """One pass of our loop over the pairs."""
    from sightline.data.mixture import Mixture, Share
    from sightline.samples.store import Store
    from sightline.train.feeding import Feed
    from sightline.train.loop import train
    from sightline.train.stage import prepare
    from sightline.train.switches import throw
    from sightline.train.watch import Watch

    model, processor = _loaded(folder)
    stage = _stage(batch, steps, said)
    prepared, objective = prepare(model, stage), stage.objective.build()
    throw(model, stage)
    feed = Feed(Mixture([Share(name="rows", store=Store.open(folder / "rows"), weight=1.0)]), processor, objective, stage, 0, None)
    wall, spent = time.monotonic(), processor_seconds()
    outcome = train(model, prepared, objective, feed, stage, Watch(stage, lambda event: None), "ours")
    return measured(outcome.steps * batch, wall, spent)


def ours_first(folder: Path, batch: int, precision: str) -> Side:
    """Loss and gradient norm of the first pairs."""
    import torch

    from sightline.samples.store import Store
    from sightline.train.stage import prepare

    model, processor = _loaded(folder)
    stage = _stage(batch, 1, {})
    prepared, objective, store = prepare(model, stage), stage.objective.build(), Store.open(folder / "rows")
    rng = np.random.default_rng(0)
    rows = processor.collate([[objective.encode(store[int(row)], processor, rng)] for row in store.kept[:batch]], root=store.path)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        loss = objective(model, rows).sums["contrastive"] / batch
    loss.backward()
    return {"loss": loss.item(), "norm": float(torch.nn.utils.get_total_norm([p.grad for p in prepared.trained.values() if p.grad is not None]))}


# the peer


def _open_clip() -> Any:
    """The package. torchvision's wheel on PyPI holds operators for CUDA builds of torch: beside another build they do not load, and describing two of them stops its import. open_clip uses neither."""
    import torch

    place = importlib.util.find_spec("torchvision")
    assert place is not None and place.submodule_search_locations
    try:
        torch.ops.load_library(str(next(Path(place.submodule_search_locations[0]).glob("_C*.so"))))
    except (OSError, StopIteration):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(library)
    import open_clip  # pyright: ignore[reportMissingImports]

    return open_clip


_DECLARED: list[Any] = []
"""Declared operators live as long as this does."""


class PeerPairs:
    """open_clip's CsvDataset with the table and the tokenising done beforehand: (pixels, 77 ids)."""

    def __init__(self, folder: Path, transform: Any) -> None:
        import torch

        texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        self.ids = torch.zeros(len(texts), TEXT["context_length"], dtype=torch.int64)
        for row, ids in enumerate(texts):
            self.ids[row, : len(ids)] = torch.tensor(ids)
        self.folder, self.transform = folder / "pictures", transform

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        return self.transform(Image.open(self.folder / f"{row:05}.jpg")), self.ids[row]


def _peer(folder: Path) -> tuple[Any, Any, Any]:
    """(package, model, transform)."""
    open_clip = _open_clip()
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder / 'weights'}", output_dict=True)
    return open_clip, model, transform


def theirs(folder: Path, batch: int, steps: int, workers: int) -> Side:
    """One pass of open_clip over the pairs."""
    import torch

    open_clip, model, transform = _peer(folder)
    from open_clip_train.distributed import init_distributed_device  # pyright: ignore[reportMissingImports]
    from open_clip_train.params import parse_args  # pyright: ignore[reportMissingImports]
    from open_clip_train.scheduler import const_lr  # pyright: ignore[reportMissingImports]
    from open_clip_train.train import train_one_epoch  # pyright: ignore[reportMissingImports]

    words = ["--model", "bench", "--precision", "amp_bf16", "--device", "cpu", "--batch-size", str(batch), "--grad-clip-norm", "1.0", "--lr", str(RATE)]
    args = parse_args(words)
    init_distributed_device(args)
    args.distill = args.wandb = False
    data = torch.utils.data.DataLoader(PeerPairs(folder, transform), batch_size=batch, num_workers=workers, drop_last=True)  # pyright: ignore[reportArgumentType]
    data.num_samples, data.num_batches = batch * steps, steps  # pyright: ignore[reportAttributeAccessIssue]
    assert len(data) == steps
    flat = [p for name, p in model.named_parameters() if p.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))]
    kept = {id(p) for p in flat}
    wide = [p for p in model.parameters() if id(p) not in kept]
    optimizer = torch.optim.AdamW([{"params": flat, "weight_decay": 0.0}, {"params": wide, "weight_decay": DECAY}], lr=RATE, betas=BETAS, fused=True)
    loss, source = open_clip.create_loss(args), SimpleNamespace(dataloader=data, set_epoch=lambda epoch: None)
    logging.disable(logging.INFO)
    wall, spent = time.monotonic(), processor_seconds()
    train_one_epoch(model, {"train": source}, loss, 0, optimizer, None, const_lr(optimizer, RATE, 0, steps), None, args)
    return measured(batch * steps, wall, spent)


def theirs_first(folder: Path, batch: int, precision: str) -> Side:
    """Loss and gradient norm of the first pairs."""
    import torch

    open_clip, model, transform = _peer(folder)
    rows = PeerPairs(folder, transform)
    pictures, texts = (torch.stack(part) for part in zip(*(rows[row] for row in range(batch))))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        loss = open_clip.ClipLoss()(**model(pictures, texts))
    loss.backward()
    return {"loss": loss.item(), "norm": float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))}


# together


def compare(folder: Path, env: Path, told: argparse.Namespace) -> dict[str, Any]:
    """Sides in turn; medians and spreads of the pairs' ratios."""

    def run(side: str, *words: str) -> Side:
        common = ("--side", side, "--folder", str(folder), "--batch", str(told.batch))
        return run_side(Path(__file__), *common, *words, packages=env if side.startswith("theirs") else None)

    prepare_folder(folder, told.batch * told.steps, told.blocks)
    sizes = ("--steps", str(told.steps))
    firsts = {name: {side: run(f"{side}-first", "--precision", name) for side in ("ours", "theirs")} for name in ("float32", "bfloat16")}
    differences = {
        precision: {key: abs(math.log(values["ours"][key] / values["theirs"][key])) for key in ("loss", "norm")} for precision, values in firsts.items()
    }
    print("first step, |log ratio| to open_clip's:", json.dumps(differences), flush=True)
    workers = max(range(3), key=lambda count: run("theirs", "--workers", str(count), *sizes)["rate"]) if told.workers is None else told.workers
    found: dict[str, list[Side]] = {"ours": [], "theirs": []}
    for number in range(told.pairs):
        for side in ("ours", "theirs")[:: 1 if number % 2 else -1]:
            found[side].append(run(side, *sizes, *(("--said", told.said) if side == "ours" else ("--workers", str(workers)))))
    spreads = {name: spread(ratios(found["ours"], found["theirs"], key)) for name, key in (("ratio", "rate"), ("peak_memory_ratio", "peak_mib"))}
    return {
        "ratio": spreads["ratio"]["median"],
        "ours": median(found["ours"], "rate"),
        "peer": median(found["theirs"], "rate"),
        "unit": "pairs per processor second",
        "peak_memory_ratio": spreads["peak_memory_ratio"]["median"],
        "spreads": spreads,
        "peak_mib": {side: median(passes, "peak_mib") for side, passes in found.items()},
        "first": firsts,
        "first_differences": differences,
        "first_equal": max(differences["float32"].values()) < 1e-4,
        "workers": workers,
        "batch": told.batch,
        "pairs": told.pairs,
        "steps": told.steps,
        "machine": platform.processor() or platform.machine(),
    }


def told_by(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=["ours", "theirs", "ours-first", "theirs-first"], help="measure this one alone, in a folder that was prepared")
    parser.add_argument("--folder", type=Path, help="of weights and pairs; default: a temporary one")
    parser.add_argument("--env", type=Path, default=default_env(), help="folder of open_clip, made where it is missing (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="of measurements (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="of a measurement (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=BATCH, help="rows of a step (default: %(default)s)")
    parser.add_argument("--blocks", type=int, help="of both towers each, for trying out")
    parser.add_argument("--workers", type=int, help="loading workers of the peer; default: the best of 0, 1 and 2")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--said", default="{}", help="settings of our stage, as JSON")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, or measure one side; 1 when the first steps differ, 2 when open_clip cannot be had."""
    told = told_by(argv)
    if told.side:
        assert told.folder is not None
        one = {
            "ours": lambda: ours(told.folder, told.batch, told.steps, json.loads(told.said)),
            "theirs": lambda: theirs(told.folder, told.batch, told.steps, told.workers or 0),
            "ours-first": lambda: ours_first(told.folder, told.batch, told.precision),
            "theirs-first": lambda: theirs_first(told.folder, told.batch, told.precision),
        }[told.side]()
        print(json.dumps(one))
        return 0
    try:
        env = make_env(told.env.resolve())
    except NoPeer as absent:
        print(f"nothing was measured: {absent}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        found = compare(told.folder or Path(scratch), env, told)
    print(json.dumps(found))
    return int(not found["first_equal"])


if __name__ == "__main__":
    sys.exit(main())

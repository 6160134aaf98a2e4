"""Averaging beside mergekit: eight made checkpoints, our linear mean and mergekit's `linear`, each in a process of its own, in turn. The last line is one JSON object.

mergekit comes from PyPI into an environment that this script makes (`--peer PYTHON`: one that is there). Both read and write the same folders on the same disk, and so does a loop that
reads the bytes and nothing else. Before each of them the system forgets the files, which are then read from the disk as those of real models are; `warm` is the same with files in its cache, where
reading is a copy of memory. Figures: seconds and peak resident memory of the best of several turns, and whether every number of the result is the correctly rounded mean of float32 numbers.

    python benchmarks/soup_vs_mergekit.py --megabytes 500 --models 8
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

PEER = ("mergekit==0.1.5", "immutables", "sentencepiece")
PEER_NEEDS = ("pydantic~=2.10.6",)
"""What it runs with; all else is that of this environment."""
BARS = {"peak_over_one": 0.3, "peak_room_mb": 400, "time_over_reading": 1.5}
"""Most memory: so many checkpoints and so many MB; most time, in times of reading the bytes."""
_LAYERS, _VOCABULARY = 4, 512


def make_checkpoint(folder: Path, megabytes: float, seed: int) -> None:
    """A Llama of float32 numbers of about this size: small layers and one large table of tokens."""
    import torch
    from safetensors.torch import save_file

    width = max(64, int((megabytes * 1e6 / 4 / (_LAYERS * 12 + 4)) ** 0.5) // 64 * 64)
    vocabulary = max(_VOCABULARY, width * 4)
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator) * 0.02  # noqa: E731
    tensors = {"model.embed_tokens.weight": draw(vocabulary, width), "model.norm.weight": draw(width) + 1}
    for layer in range(_LAYERS):
        at = f"model.layers.{layer}"
        tensors |= {f"{at}.self_attn.{name}_proj.weight": draw(width, width) for name in "qkvo"}
        tensors |= {f"{at}.mlp.gate_proj.weight": draw(8 * width // 3, width), f"{at}.mlp.up_proj.weight": draw(8 * width // 3, width)}
        tensors |= {f"{at}.mlp.down_proj.weight": draw(width, 8 * width // 3)}
        tensors |= {f"{at}.{name}_layernorm.weight": draw(width) + 1 for name in ("input", "post_attention")}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": 8 * width // 3,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 64,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def read_all(folders: Sequence[Path]) -> float:
    """Seconds of reading every byte once, in slices of 2 MiB."""
    buffer = bytearray(1 << 21)
    start = time.perf_counter()
    for folder in folders:
        for file in sorted(folder.glob("*.safetensors")):
            with file.open("rb", buffering=0) as stream:
                while stream.readinto(buffer):
                    pass
    return time.perf_counter() - start


def forget(folders: Sequence[Path]) -> None:
    """Make the system drop what it keeps of the files in memory."""
    os.sync()  # what is not yet written cannot be dropped
    for file in (file for folder in folders for file in folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def ours(folders: Sequence[Path], out: Path) -> dict[str, float]:
    """Our mean, in this process: seconds of the work, peak memory and the part of it that importing took, in MB."""
    from sightline.lineage import artifact
    from sightline.train.soup import average

    before = _peak()
    start = time.perf_counter()
    with artifact(out) as temporary:
        average(folders, temporary)
    return {"seconds": time.perf_counter() - start, "peak_mb": _peak(), "imports_mb": before, "processor_seconds": time.process_time()}


def _peak() -> float:
    """MB of this program alone; what getrusage says starts at the size of the process that forked it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024


_PEER_SCRIPT = """
import json, sys, time
import torch, yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
out, dtype, *folders = sys.argv[1:]
peak = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM:")).split()[1]) / 1024
before = peak()
said = {"merge_method": "linear", "dtype": dtype, "models": [{"model": folder, "parameters": {"weight": 1.0}} for folder in folders]}
start = time.perf_counter()
run_merge(MergeConfiguration.model_validate(said), out, options=MergeOptions(copy_tokenizer=False, lazy_unpickle=True, low_cpu_memory=True))
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "peak_mb": peak(), "imports_mb": before, "processor_seconds": time.process_time()}))
"""


def peer_python(folder: Path) -> Path:
    """An environment with mergekit; made once, with the packages of this one below it, so that both run the same torch."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        here = next(path for path in sys.path if path.endswith("site-packages"))
        site = next((folder / "lib").glob("python*")) / "site-packages"
        (site / "below.pth").write_text(here + "\n")
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", *PEER], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--ignore-installed", *PEER_NEEDS], check=True)
        (folder / "ready").touch()
    return python


def run_apart(command: Sequence[str | Path]) -> dict[str, float]:
    """What a process of its own says in its last line."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def equal_numbers(folders: Sequence[Path], out: Path) -> dict[str, float]:
    """How many numbers of a result are the float32 number nearest to the mean, and the largest distance from it in units of the last place."""
    from safetensors import safe_open

    files = sorted(out.glob("*.safetensors"))
    streams = [safe_open(folder / "model.safetensors", framework="np") for folder in folders]
    count = right = 0
    furthest = 0.0
    for file in files:
        with safe_open(file, framework="np") as result:
            for name in result.keys():  # noqa: SIM118
                parts = [stream.get_slice(name) for stream in streams]
                whole = result.get_slice(name)
                rows = whole.get_shape()[0]
                step = max(1, rows // 64)
                for at in range(0, rows, step):
                    wanted = np.mean([part[at : min(at + step, rows)].astype(np.float64) for part in parts], axis=0).astype(np.float32)
                    found = whole[at : min(at + step, rows)].astype(np.float32)
                    count += found.size
                    right += int((wanted == found).sum())
                    furthest = max(furthest, float((np.abs(wanted.astype(np.float64) - found) / np.spacing(np.abs(wanted))).max()))
    return {"numbers": count, "equal": right, "furthest_ulp": furthest}


def measure(models: int, megabytes: float, turns: int, work: Path, peer: Path | None) -> dict[str, Any]:
    """All figures; `peer`: the Python that has mergekit, None = ours alone."""
    folders = [work / f"made-{number}" for number in range(models)]
    for number, folder in enumerate(folders):
        if not folder.exists():
            make_checkpoint(folder, megabytes, number)
    one = sum(file.stat().st_size for file in folders[0].glob("*.safetensors")) / 1e6
    own = [sys.executable, Path(__file__).resolve(), "--ours", work / "ours", *folders]
    reading, mine, theirs, warm_reading, warm_mine = [], [], [], [], []
    for _ in range(turns):
        forget(folders)
        reading.append(read_all(folders))
        warm_reading.append(read_all(folders))
        warm_mine.append(run_apart(own))
        forget(folders)
        mine.append(run_apart(own))
        if peer is not None:
            forget(folders)
            theirs.append(run_apart([peer, "-c", _PEER_SCRIPT, work / "peer", "float32", *folders]))
    ours_best, read_best = min(mine, key=lambda one: one["seconds"]), min(reading)
    found: dict[str, Any] = {
        "models": models,
        "checkpoint_mb": round(one, 1),
        "ours": {**ours_best, **equal_numbers(folders, work / "ours")},
        "reading_seconds": read_best,
        "time_over_reading": ours_best["seconds"] / read_best,
        "warm": {"seconds": min(one["seconds"] for one in warm_mine), "reading_seconds": min(warm_reading)},
        "peak_over_one": ours_best["peak_mb"] / (one / 1.048576),
        "peak_bar_mb": BARS["peak_over_one"] * one / 1.048576 + BARS["peak_room_mb"],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    if theirs:
        best = min(theirs, key=lambda one: one["seconds"])
        found |= {"peer": {**best, **equal_numbers(folders, work / "peer")}, "ratio": best["seconds"] / ours_best["seconds"]}
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--megabytes", type=float, default=500.0, help="size of a checkpoint")
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder for checkpoints, which stay; default: one that is thrown away")
    parser.add_argument("--peer", type=Path, help="Python that has mergekit; default: an environment is made under --work")
    parser.add_argument("--no-peer", action="store_true", help="ours alone")
    parser.add_argument("--ours", nargs="+", type=Path, metavar=("OUT", "FOLDER"), help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.ours:
        print(json.dumps(ours(said.ours[1:], said.ours[0])))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = said.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        peer = None if said.no_peer else said.peer or peer_python(work / "mergekit")
        print(json.dumps(measure(said.models, said.megabytes, said.turns, work.resolve(), peer)))


if __name__ == "__main__":
    main()

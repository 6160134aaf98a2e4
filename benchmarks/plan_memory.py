"""Memory that `plan` predicts against memory that a process takes: Workload A, forward, backward and optimizer, two steps. `python benchmarks/plan_memory.py [--rows 8]`.

The measured process gives freed memory back at once (glibc's mmap threshold), so that its resident size is that of its tensors and not of an allocator's habits. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RECIPE = """
name: workload-a
threads: 1
model:
  encoders:
    - layer: -2
      config: {model_type: clip_vision_model, hidden_size: 384, intermediate_size: 1536, num_hidden_layers: 12, num_attention_heads: 6, image_size: 224, patch_size: 16}
  tiler: {kind: whole, size: 224}
  connector: {kind: mlp, depth: 2}
  language_model:
    config:
      {model_type: qwen2, hidden_size: 512, intermediate_size: 1408, num_hidden_layers: 8, num_attention_heads: 8, num_key_value_heads: 8, vocab_size: 32000,
       tie_word_embeddings: false, max_position_embeddings: 2048}
  tokenizer: {train_on: [rows], size: 32000}
data:
  rows: {read: {format: llava-json, path: rows.json}, expect: {rows: 4000, text: 94, answers: 42, spread: 0.7, size: [224, 224]}}
stages:
  - name: instruct
    objective: answer-likelihood
    data: {rows: 1.0}
    train: {connector: {learning_rate: 1.0e-3}, language_model: {learning_rate: 1.0e-3}}
    batch: 8
    steps: 2
"""
"""Log-normal texts of median 74 tokens, of which 45 in a hundred are answers."""
_QUIET = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0", "OMP_NUM_THREADS": "1"}


def prepared(folder: Path, rows: int) -> tuple[Any, Any, Any, Any]:
    """(config, stage, objective, batch) of the recipe, with the longest rows that it expects."""
    from sightline.plan_rows import processor_of, rows_of, vocabulary, worst_batch
    from sightline.recipe import load

    file = folder / "workload-a.yaml"
    file.write_text(RECIPE, encoding="utf-8")
    recipe = load(file).recipe
    stage = recipe.stages[0]
    config = recipe.config_of(stage).resolve(*vocabulary(recipe, "model"))
    processor, known = processor_of(recipe, stage, config, None)
    data = rows_of(recipe, stage, processor, known, None)
    objective: Any = stage.objective.build()  # pyright: ignore[reportAttributeAccessIssue]
    batch, _ = worst_batch([length for one in data for length in one.lengths], rows, processor, objective, stage.pack)
    return config, stage, objective, batch


def predicted(folder: Path, rows: int) -> int:
    """Bytes by `plan`."""
    import torch

    from sightline.model.vlm import Model
    from sightline.plan_memory import measure_steps
    from sightline.train.stage import prepare

    config, stage, objective, batch = prepared(folder, rows)
    with torch.device("meta"):
        model = Model(config)
        prepare(model, stage)
    [found] = measure_steps(model, objective, [batch], stage)
    return found.total


def measure(folder: Path, rows: int) -> int:
    """Bytes that this process grows by, at most, from before its weights to the end of the second step."""
    import torch

    from sightline.model.vlm import Model
    from sightline.train.stage import prepare

    config, stage, objective, batch = prepared(folder, rows)
    with torch.device("meta"):
        Model(config)  # classes are imported before anything is counted
    before = _resident("VmRSS")
    model = Model(config)
    ready = prepare(model, stage)
    optimizer = torch.optim.AdamW(ready.groups, fused=True)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=stage.precision == "bfloat16"):
            losses = objective(model, batch)
        torch.stack(list(losses.sums.values())).sum().backward()
        del losses
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def main() -> None:
    """Print both, and as the last line JSON: `ratio` = predicted / measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--measure", action="store_true", help="only measure this process, and print bytes")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if asked.measure:
            print(measure(Path(name), asked.rows))
            return
        said = predicted(Path(name), asked.rows)
        command = [sys.executable, __file__, "--measure", "--rows", str(asked.rows)]
        done = subprocess.run(command, env={**os.environ, **_QUIET}, capture_output=True, text=True, check=True)
        found = int(done.stdout.split()[-1])
    print(f"predicted {said / 1e6:,.0f} MB, measured {found / 1e6:,.0f} MB")
    print(json.dumps({"ratio": round(said / found, 4), "ours": said, "peer": found, "rows": asked.rows}))


if __name__ == "__main__":
    main()

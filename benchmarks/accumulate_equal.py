"""One optimizer step cut in several ways, beside a mean of means, on workload A at toy depth in float32. The last line is one JSON object: `ratio` = largest relative difference over the bar.

Ours divides each sum once by its global count. The peer is what a loop does that averages each micro-batch and then the averages: transformers before 4.46 did, and many scripts still do.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from train_vs_transformers import prepare_folder, rows_of

BAR = 1e-5
CUTS: dict[str, list[int]] = {"8 x 4": [4] * 8, "4 x 8": [8] * 4, "uneven": [1, 2, 5, 10, 14]}


def _norm(gradients: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    largest = max(gradient.norm().item() for gradient in expected.values())
    return max((gradients[name] - gradient).norm().item() / max(gradient.norm().item(), 1e-2 * largest) for name, gradient in expected.items())


def measure(folder: Path) -> dict[str, Any]:
    """Differences of gradients from the padded 1 x 32."""
    from sightline.train.objectives import AnswerLikelihood

    prepare_folder(folder, 32, blocks=2)
    model, processor, encoded, root = rows_of(folder)
    model.encoders.requires_grad_(False)
    objective = AnswerLikelihood().build()

    def step(cut: list[int], packed: bool, of_means: bool = False) -> dict[str, torch.Tensor]:
        starts = [sum(cut[:number]) for number in range(len(cut))]
        parts = [encoded[start : start + count] for start, count in zip(starts, cut)]
        batches = [processor.collate([part] if packed else [[row] for row in part], root=root) for part in parts]
        total = sum(float(batch.weights.sum()) for batch in batches)
        model.zero_grad()
        for batch in batches:
            count = float(batch.weights.sum()) * len(batches) if of_means else total
            (objective(model, batch).sums["answer"] / count).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    whole = step([32], packed=False)
    found = {f"{name}, {'packed' if packed else 'padded'}": _norm(step(cut, packed), whole) for name, cut in CUTS.items() for packed in (True, False)}
    found["1 x 32, packed"] = _norm(step([32], packed=True), whole)
    worst = max(found.values())
    return {"ratio": worst / BAR, "ours": worst, "peer": _norm(step(CUTS["8 x 4"], packed=False, of_means=True), whole), "cuts": found, "bar": BAR}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(Path(scratch))
    print(json.dumps(result))
    sys.exit(int(result["ratio"] > 1))

"""The cache of frozen encoders on workload A: seconds an epoch costs with it and without, its size beside the prediction, and whether losses are bit-equal. The last line is one JSON object.

`ours` = processor seconds to read an epoch's features from the cache, `peer` = to decode and encode the pictures again, `ratio` = peer over ours.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from train_vs_transformers import prepare_folder, rows_of

ROWS, BATCH = 16, 8


def measure(folder: Path) -> dict[str, Any]:
    """One epoch each way, bfloat16."""
    from sightline.train.feature_cache import build_cache, predicted_bytes
    from sightline.train.objectives import AnswerLikelihood

    prepare_folder(folder, ROWS)
    model, processor, encoded, root = rows_of(folder)
    model.requires_grad_(False)
    objective = AnswerLikelihood().build()
    pictures = [(picture, root, 1) for one in encoded for picture in one.pictures]
    start = time.process_time()
    source = build_cache(folder / "features", model, "bench", processor, pictures, "bfloat16", "features")
    building = time.process_time() - start
    predicted = predicted_bytes(model.config, [measure.tiling for one in encoded for measure in one.measures], "bfloat16")
    size = sum(path.stat().st_size for path in (folder / "features").glob("*/*.bin"))

    def epoch(features: Any) -> tuple[float, list[torch.Tensor], list[float]]:
        seconds, values, losses = 0.0, [], []
        for first in range(0, ROWS, BATCH):
            start = time.process_time()
            batch = processor.collate([encoded[first : first + BATCH]], features=features, root=root)
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
                values += [own.values for own in model.encode(batch).values()]
                seconds += time.process_time() - start
                losses.append(objective(model, batch).sums["answer"].item())
        return seconds, values, losses

    (read, cached, losses), (looked, seen, others) = epoch(source), epoch(None)
    return {
        "ratio": looked / read,
        "ours": read,
        "peer": looked,
        "unit": "processor seconds an epoch",
        "rows": ROWS,
        "building": building,
        "bytes": size,
        "predicted_bytes": predicted,
        "bit_equal": all(torch.equal(a, b) for a, b in zip(cached, seen)),
        "losses_equal": losses == others,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(Path(scratch))
    print(json.dumps(result))
    sys.exit(int(result["bytes"] != result["predicted_bytes"] or not result["losses_equal"]))

"""Does the failure report name what was spoiled? A small model of made scenes, and three twins of it that are spoiled on purpose, several seeds.

    healthy      looks, answers yes or no, gives boxes
    shuffled     trained with the pictures of other rows                      -> failure/no-picture
    endless      trained without learning the end of an answer                -> failure/endless
    transposed   trained with boxes whose x and y were swapped before reading -> failure/region-convention

Each twin must be found by its own code, and none of the three codes may stand on the healthy one. Run it with

    python benchmarks/spoiled_twins.py OUT --seeds 0 1 2

The first stage is the same for all and is trained once a seed. `--part` scales the steps: 1 is what the acceptance asks for.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sightline.data.scenes import Scenes
from sightline.data.steps import make_layout
from sightline.data.synthesis.phrasings import TABLE
from sightline.model.packing import Encoded
from sightline.model.processor import Processor
from sightline.run import run

EXPECTED = {"shuffled": "failure/no-picture", "endless": "failure/endless", "transposed": "failure/region-convention"}
"""Spoiling -> the code that names it."""
SIZE = 64
ROWS, HELD_OUT = 3000, 200
LABELS = ("building", "tank", "vehicle", "road", "pond", "pool", "grove")
WORDING, CUE = "is there a {label}?", "yes or no?"


def recipe(seed: int, layout: Path, told: Path, test: Path, wordings: Path, part: float) -> dict[str, Any]:
    """The recipe of a twin: the encoder learns from captions of `layout`, the rest from the questions of `told`."""
    asked = {"kinds": {"yes-no": 4, "grounding": 3}, "languages": ["en"], "phrasings": str(wordings), "terse": 1.0, "together": True, "least_iou": 0.7}
    boxes = lambda path: [{"format": "dota", "path": str(path)}]  # noqa: E731
    small = {"model_type": "qwen2", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 8}
    steps = lambda count: max(2, round(count * part))  # noqa: E731
    return {
        "name": "twin",
        "seed": seed,
        "model": {
            "encoders": [
                {
                    "config": {"model_type": "resnet", "embedding_size": 64, "hidden_sizes": [64, 128], "depths": [2, 2], "layer_type": "basic"},
                    "mean": [0.4, 0.4, 0.4],
                    "std": [0.2, 0.2, 0.2],
                }
            ],
            "tiler": {"kind": "whole", "size": SIZE, "fit": "squash"},
            "connector": {"kind": "mlp", "depth": 2, "norm": True, "coordinates": 1},
            "layout": {"kind": "flat"},
            "fusion": {"kind": "sequence"},
            "language_model": {
                "attention": "eager",
                "config": {**small, "max_position_embeddings": 1024, "initializer_range": 0.09, "tie_word_embeddings": True},
            },
            "text_encoder": {
                "config": {
                    "model_type": "clip_text_model",
                    "hidden_size": 128,
                    "intermediate_size": 256,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "max_position_embeddings": 77,
                },
                "width": 128,
                "pictures": "mean-max",
                "tags": True,
            },
            "tokenizer": {"train_on": ["scenes", "words"], "size": 400},
            "chat": "turns",
            "codec": "xyhwt-pad",
        },
        "data": {
            "scenes": {"read": [{"format": "karpathy-captions", "path": str(layout)}, *boxes(layout)]},
            "words": {"source": "held-out", "then": [{"synthesize": asked}]},
            "regions": {"read": boxes(told)},
            "told": {"source": "regions", "then": [{"synthesize": asked}]},
            "held-out": {"read": boxes(test)},
            "test": {"source": "held-out", "then": [{"synthesize": {**asked, "together": False}}]},
        },
        "stages": [
            {
                "name": "see",
                "objective": {"kind": "contrastive", "tags": {"words": list(LABELS), "weight": 8.0}},
                "data": {"scenes": 1.0},
                "train": {"encoders": {"learning_rate": 2.0e-3}, "text_encoder": {"learning_rate": 2.0e-3}},
                "batch": 32,
                "steps": steps(500),
                "warmup": 0.1,
                "weight_decay": 0.02,
            },
            {
                "name": "instruct",
                "objective": "answer-likelihood",
                "data": {"told": 1.0},
                "train": {"connector": {"learning_rate": 1.5e-3}, "language_model": {"learning_rate": 1.5e-3}},
                "batch": 16,
                "steps": steps(900),
                "warmup": 0.06,
                "weight_decay": 0.01,
            },
        ],
        "evaluate": {},
    }


def wordings(path: Path) -> Path:
    """Sightline's phrasings with one wording of what the twins are asked: a model this small has better things to learn than synonyms."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    table["en"]["yes-no"] |= {"ask": [WORDING], "cue": [CUE], "bare-yes": ["yes"], "bare-no": ["no"]}
    table["en"]["grounding"] |= {"ask": ["where is the {label}?"], "say": ["{boxes}"]}
    path.write_text(yaml.safe_dump(table, allow_unicode=True), encoding="utf-8")
    return path


def shuffled(layout: Path, out: Path) -> Path:
    """The layout with each picture under the name of another one."""
    shutil.copytree(layout, out)
    names = sorted(path.name for path in (layout / "images").iterdir())
    order = np.random.default_rng(0).permutation(len(names)).tolist()
    for first, other in zip(order, [*order[1:], order[0]], strict=True):
        shutil.copyfile(layout / "images" / names[other], out / "images" / names[first])
    return out


def transposed(layout: Path, out: Path) -> Path:
    """The layout with x and y of every corner swapped."""
    shutil.copytree(layout, out)
    for path in (out / "labelTxt").iterdir():
        lines = []
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.split()
            lines.append(" ".join([*(words[place ^ 1] for place in range(8)), *words[8:]]) if len(words) >= 9 else line)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return out


@contextmanager
def end_not_learnt() -> Iterator[None]:
    """Rows are encoded as ever, but the end token is nothing that is learnt."""
    encode: Callable[..., Encoded] = Processor.encode

    def without_end(self: Processor, *given: Any, **named: Any) -> Encoded:
        encoded = encode(self, *given, **named)
        learnt = encoded.targets != self.tokenizer.end_id
        return replace(
            encoded, answers=encoded.answers[learnt], targets=encoded.targets[learnt], weights=encoded.weights[learnt], pair_of=encoded.pair_of[learnt]
        )

    Processor.encode = without_end  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        Processor.encode = encode  # pyright: ignore[reportAttributeAccessIssue]


def train(folder: Path, said: Mapping[str, Any], twin: str) -> None:
    """Carry out a twin's recipe; the stage that all share is copied from the healthy one."""
    healthy = folder.parent / "healthy"
    if twin != "healthy" and not folder.exists():
        shutil.copytree(healthy, folder, ignore=lambda path, names: [name for name in names if name.endswith("-instruct") or name == "failures"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".yaml")
    path.write_text(json.dumps(said), encoding="utf-8")
    if twin == "endless":
        with end_not_learnt():
            run(path, folder)
    else:
        run(path, folder)


def codes(folder: Path) -> dict[str, Any]:
    """What `sightline report --json` says of a twin."""
    words = ["report", str(folder), "--failures", "--ask", "--data", "test", "--wording", f"{WORDING} {CUE}", "--json"]
    ended = subprocess.run([sys.executable, "-m", "sightline", *words], capture_output=True, text=True, check=False)
    if ended.returncode not in (0, 1):
        raise RuntimeError(ended.stderr[-2000:] or ended.stdout[-2000:])
    return json.loads(ended.stdout)


def judged(seed: int, out: Path, part: float, twins: list[str]) -> dict[str, list[str]]:
    """Train the twins of a seed and look at them: name -> codes found."""
    base = out / f"seed-{seed}"
    base.mkdir(parents=True, exist_ok=True)
    rows = max(48, round(ROWS * min(1.0, part)))
    layouts = {name: base / name for name in ("layout", "test")}
    for number, (name, path) in enumerate(layouts.items()):
        count = rows if name == "layout" else max(24, round(HELD_OUT * min(1.0, part)))
        if not path.exists():
            make_layout(Scenes(count=count, seed=2 * seed + number + 1, size=SIZE, text_share=0.0, val_share=0.0, test_share=float(number)), path)
    told = {"healthy": layouts["layout"], "endless": layouts["layout"]}
    for name, spoil in (("shuffled", shuffled), ("transposed", transposed)):
        told[name] = base / f"layout-{name}"
        if name in twins and not told[name].exists():
            spoil(layouts["layout"], told[name])
    words = wordings(base / "wordings.yaml")
    found: dict[str, list[str]] = {}
    for twin in ["healthy", *(name for name in EXPECTED if name in twins)]:
        train(base / twin, recipe(seed, layouts["layout"], told[twin], layouts["test"], words, part), twin)
        said = codes(base / twin)
        found[twin] = said["found"]
        rates = {one["code"]: [one["state"], *(round(value, 3) for value in list(one["rate"].values())[:3])] for one in said["failures"] if one["rate"]["n"]}
        print(json.dumps({"seed": seed, "twin": twin, "found": said["found"], "rates": rates}), flush=True)
    return found


def verdicts(seed: int, found: Mapping[str, list[str]]) -> list[str]:
    """What is not as it should be; empty where every spoiling was named and the healthy twin has none of their codes."""
    wrong = [f"seed {seed}: {twin} was not named by {code}" for twin, code in EXPECTED.items() if twin in found and code not in found[twin]]
    return wrong + [f"seed {seed}: the healthy twin has {code}" for code in EXPECTED.values() if code in found["healthy"]]


def main() -> int:
    """0 where all is named, 1 where something is not."""
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--part", type=float, default=1.0)
    parser.add_argument("--twins", nargs="+", choices=list(EXPECTED), default=list(EXPECTED))
    arguments = parser.parse_args()
    wrong = [line for seed in arguments.seeds for line in verdicts(seed, judged(seed, arguments.out, arguments.part, arguments.twins))]
    print("\n".join(wrong) or "every spoiling was named, and none on a healthy twin")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

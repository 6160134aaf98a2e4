"""Recipes that want to be a problem: alias bombs, huge and deep texts, tags that would run code, paths that lead out. Each is refused, fast and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hostile_pictures import Outcome, tried

from sightline.recipe import Recipe
from sightline.recipe_source import dump, load, shipped
from sightline.recipe_text import LARGEST

SECONDS, MEBIBYTES = 10.0, 200.0
"""What refusing one text may cost; PyYAML takes some seconds for a quarter of a megabyte."""

_LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi"))
_HEAD = "extends: quickstart\n"


def texts() -> dict[str, str]:
    """Recipe files that have to be refused, by what they try."""
    return {
        "alias bomb": _LAUGHS,
        "alias to itself": "a: &a [*a]\n",
        "merge key": "a: &a {name: x}\nb: {<<: *a}\n",
        "tag that calls": "name: !!python/object/apply:os.system ['true']\n",
        "tag that imports": "name: !!python/name:os.system\n",
        "tag that is ours": "name: !x 1\n",
        "deep flow lists": "name: " + "[" * 10_000 + "]" * 10_000,
        "deep flow mappings": "name: " + "{a: " * 10_000 + "1" + "}" * 10_000,
        "deep block lists": "name:\n" + "- " * 5_000 + "x\n",
        "deep block mappings": "".join(" " * depth + f"k{depth}:\n" for depth in range(600)),
        "too large": "# " + "x" * LARGEST + "\nname: x\n",
        "as many keys as fit": "".join(f"k{number}: {number}\n" for number in range(LARGEST // 16)),
        "one long line": "name: [" + "x, " * (LARGEST // 4) + "]\n",
        "one long text": "name: '" + "x" * (LARGEST - 100) + "'\n",
        "open quotes": 'name: "' + "\\x41" * 1000,
        "number without end": _HEAD + "seed: " + "9" * 100_000 + "\n",
        "number beyond float64": _HEAD + "seed: 1e999\n",
        "duplicate key": "name: a\nname: b\n",
        "two documents": "name: a\n---\nname: b\n",
        "zero bytes": "name: a\0b\n",
        "escape sequences of a terminal": "name: \x1b[2J\n",
        "a list": "- name\n",
        "nothing": "",
        "data set that leads out": _HEAD + "data: {../../out: {source: scenes}}\n",
        "data set with a slash": _HEAD + "data: {a/b: {source: scenes}}\n",
        "model that leads out": _HEAD + "models: {../x: {}}\n",
        "evaluation that leads out": _HEAD + "evaluate: {..: {benchmark: {questions: {data: test-questions}}}}\n",
        "name that leads out": _HEAD + "name: ../../out\n",
        "name with a newline": _HEAD + 'name: "a\\n"\n',
        "stage that leads out": _HEAD
        + "stages: [{name: ../x, objective: text, data: {notes: 1.0}, train: {language_model: {learning_rate: 1.0e-3}}, batch: 1, steps: 1}]\n",
        "endless scenes": _HEAD + "data: {scenes: {make: {scenes: {count: -1}}}}\n",
        "data set of itself": _HEAD + "data: {captions: {source: captions}}\n",
        "extends itself": "extends: hostile.yaml\n",
        "extends a folder": "extends: .\n",
        "extends a device": "extends: /dev/zero\n",
        "extends what is no recipe": "extends: picture.yaml\n",
        "extends a number": "extends: 1\n",
        "table of endless numbers": _HEAD + "data: {x: {read: {format: label-masks, path: x, labels: {99999999999999999999: a}}}}\nstages: 1\n",
    }


OVERRIDES = {
    "no value": "seed",
    "no key": "=1",
    "empty step": "data..scenes=1",
    "deep path": ".".join(["a"] * 20_000) + "=1",
    "deep value": "name=" + "[" * 10_000 + "]" * 10_000,
    "alias": "name=[&a x, *a]",
    "tag": "name=[!!python/name:os.system x]",
    "long number": "seed=" + "9" * 100_000,
    "through a scalar": "seed.x=1",
    "item that is not there": "stages.99.steps=1",
    "item below zero": "stages.-1.steps=1",
    "large text": "name='" + "x" * (LARGEST + 1) + "'",
    "name that leads out": "name=../x",
    "surrogate": "name=\ud800",
}
"""Overrides of the quickstart that have to be refused."""


def check_all(scratch: Path, seed: int = 0, tries: int = 40) -> Iterator[Outcome]:
    """Every text and every override is refused; the shipped recipes garbled at random are read or refused."""
    file = scratch / "hostile.yaml"
    (scratch / "picture.yaml").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    load("quickstart", Recipe)
    for name, text in texts().items():
        file.write_text(text, encoding="utf-8")
        yield _bounded(tried(f"recipe: {name}", lambda: load(file, Recipe), refused=True))
    for name, override in OVERRIDES.items():
        yield _bounded(tried(f"override: {name}", lambda o=override: load("quickstart", Recipe, [o]), refused=True))
    rng = np.random.default_rng(seed)
    for recipe, path in shipped().items():
        whole = path.read_bytes()
        for number in range(tries):
            garbled = bytearray(whole)
            for place in rng.integers(0, len(whole), int(rng.integers(1, 6))).tolist():
                garbled[place] = int(rng.integers(256))
            file.write_bytes(bytes(garbled))
            yield _bounded(tried(f"{recipe} garbled {number}", lambda: dump(load(file, Recipe).recipe)))


def _bounded(outcome: Outcome) -> Outcome:
    if outcome.fault or (outcome.seconds <= SECONDS and outcome.mebibytes <= MEBIBYTES):
        return outcome
    fault = f"took {outcome.seconds:.1f} s and {outcome.mebibytes:.0f} MiB"
    return Outcome(name=outcome.name, fault=fault, seconds=outcome.seconds, mebibytes=outcome.mebibytes)

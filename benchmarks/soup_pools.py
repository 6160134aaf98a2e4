"""A pool of four fine-tunes, made scenes and RSICD: every single model, their mean, the maximum, the average and the greedy soup, chosen on one split and reported on another.

Runs the recipes `soup-scenes` and `soup-rsicd` (the second one where the set is there) and prints the table of each soup as the run left it. The last line is one JSON object. A run that was
stopped goes on; one that is done is read.

    python benchmarks/soup_pools.py --out runs/soups --data DATA
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECIPES = {"scenes": "soup-scenes", "rsicd": "soup-rsicd"}
"""Name of a pool -> its recipe."""
SOUP = "mean"
"""The soup of both recipes."""
SOUPS = ("average", "maximum", "greedy")
Score = dict[str, float]
"""value, low and high, 0..1."""


def run_pool(pool: str, out: Path, data: Path, overrides: Sequence[str] = (), program: Sequence[str] = (sys.executable, "-m", "sightline")) -> Path:
    """Run a recipe of one pool, as a user would; the folder of its run. Raises RuntimeError where the command fails."""
    own = [f"data.captions.read.path={data / 'rsicd'}"] if pool == "rsicd" else []
    words = [*program, "run", str(ROOT / "recipes" / f"{RECIPES[pool]}.yaml"), "--out", str(out / pool), *own, *overrides]
    ended = subprocess.run(words, stdout=subprocess.DEVNULL, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {ended.returncode}")
    return out / pool


def figures_of(run: Path) -> dict[str, Any]:
    """What the soup of a run reached on what chose nothing: singles by name, average, maximum and greedy with 95 % intervals; who is in the greedy soup, and the paired gains."""
    table = json.loads((run / "soups" / SOUP / "table.json").read_text(encoding="utf-8"))
    [reported] = table["reported_on"]
    lines = table["lines"]
    singles = {line["models"][0]: _score(line, reported) for line in lines if line["name"] == "single"}
    found = {line["name"]: line for line in lines if line["name"] in SOUPS}
    [mean] = [line for line in lines if line["name"] == f"single, mean of {len(singles)}"]
    gains = {f"{gain['name']} over {gain['over']}": {"value": gain["gain"], "low": gain["low"], "high": gain["high"]} for gain in table["gains"]}
    return {
        "selected_on": table["selected_on"],
        "reported_on": table["reported_on"],
        "stamp": table["stamp"],
        "singles": singles,
        "mean": _score(mean, reported),
        **{name: _score(found[name], reported) for name in SOUPS},
        "in_greedy": found["greedy"]["models"],
        "gains": gains,
    }


def _score(line: Mapping[str, Any], evaluation: str) -> Score:
    return {end: line["scores"][evaluation][end] for end in ("value", "low", "high")}


def main(argv: Sequence[str] | None = None) -> int:
    """Run both and print; 1 when a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(RECIPES), action="append", help="this pool; may be repeated")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "soups", metavar="DIR", help="folder of the runs (default: runs/soups)")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", metavar="DIR", help="folder of the real data sets")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an override of both recipes, for trying out")
    said = parser.parse_args(argv)
    found: dict[str, Any] = {}
    failed = False
    for pool in said.only or list(RECIPES):
        try:
            run = run_pool(pool, said.out.resolve(), said.data.resolve(), said.set)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            failed, found[pool] = True, None
            continue
        print((run / "soups" / SOUP / "table.md").read_text(encoding="utf-8").replace(f"## {SOUP}", f"## {RECIPES[pool]}"), flush=True)
        found[pool] = figures_of(run)
    print(json.dumps(found))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

"""`make bench`: speed and accuracy, each figure beside its bar. Prints one PASS or FAIL line per figure; exit code 1 when one failed.

Lines that train take minutes to hours. A run that was stopped goes on where it was; delete its folder under `--out` to measure it anew.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from check_speed import PHOTOS, check_speed
from figures import ROOT, Circumstances, Figure, Unmeasured, append, measure, show, table
from perplexity_speed import perplexity_speed
from read_write import make_captions, measured, plain_loop
from read_write import ours as read_ours
from run_bars import caption_figures, question_figures, scores_of, scores_with, seconds_of

from sightline.lineage import write_json

RESULTS = ROOT / "benchmarks" / "RESULTS.md"
HELP_SECONDS, PLAN_SECONDS = 0.5, 20.0
SCENES, CAPTIONS = 8000, 1000
"""Sizes of the lines `reading` and `scores`: about those of the quickstart's training set and of RSICD's test split."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all lines are told."""

    out: Path
    data: Path
    """Folder of the real data sets."""
    seeds: int = 3
    overrides: tuple[str, ...] = ()
    """Put into every recipe that is run: with any, the figures are not those of the shipped recipes."""
    program: tuple[str, ...] = (str(Path(sys.executable).with_name("sightline")),)


def sightline(bench: Bench, *words: str) -> float:
    """Seconds of one command, whose messages go on to the terminal. Unmeasured when it fails."""
    start = time.monotonic()
    try:
        ended = subprocess.run([*bench.program, *words], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    except OSError as error:
        raise Unmeasured(f"{bench.program[0]}: {error.strerror}") from error
    if ended.returncode:
        raise Unmeasured(f"sightline {words[0]} ended with {ended.returncode}")
    return time.monotonic() - start


def help_time(bench: Bench) -> Iterator[Figure]:
    """`sightline --help`, best of five."""
    yield Figure(name="help-time", values=tuple(sightline(bench, "--help") for _ in range(5)), unit="s", most=HELP_SECONDS, take="least")


def plan_time(bench: Bench) -> Iterator[Figure]:
    """`sightline plan --model-only` of the quickstart."""
    words = ("plan", "--model-only", str(ROOT / "recipes" / "quickstart.yaml"), *bench.overrides)
    yield Figure(name="plan-time", values=tuple(sightline(bench, *words) for _ in range(bench.seeds)), unit="s", most=PLAN_SECONDS)


def quickstart(bench: Bench) -> Iterator[Figure]:
    """The quickstart from nothing, once per seed on scenes of its own; seed 0 is the shipped recipe."""
    runs = [bench.out / f"quickstart-{seed}" for seed in range(bench.seeds)]
    for seed, run in enumerate(runs):
        seeds = (f"seed={seed}", f"data.scenes.make.scenes.seed={1 + 2 * seed}", f"data.held-out.make.scenes.seed={2 + 2 * seed}")
        sightline(bench, "run", str(ROOT / "recipes" / "quickstart.yaml"), "--out", str(run), *seeds, *bench.overrides)
    yield from question_figures("quickstart", [scores_of(run, "questions") for run in runs])
    yield Figure(name="quickstart time", values=tuple(seconds_of(run) for run in runs), unit="s")


def rsicd(bench: Bench) -> Iterator[Figure]:
    """Captions of real aerial tiles, trained from nothing."""
    source, run = bench.data / "rsicd", bench.out / "rsicd"
    if not source.is_dir():
        raise Unmeasured(f"{source} is not there: give the folder of the data sets with --data")
    sightline(bench, "run", str(ROOT / "recipes" / "rsicd-from-scratch.yaml"), "--out", str(run), f"data.captions.read.path={source}", *bench.overrides)
    yield from caption_figures("rsicd", [scores_with(run, "bleu-4")], [seconds_of(run)])


def tasks(bench: Bench) -> Iterator[Figure]:
    """What is wrong with a picture, and what has changed between two, trained from nothing."""
    import task_bars as script

    yield from script.quality_figures(bench.out / "tasks", bench.data, bench.overrides, bench.program)
    yield from script.change_figures(bench.out / "tasks", bench.data, bench.overrides, bench.program)


def soups(bench: Bench) -> Iterator[Figure]:
    """A pool of four fine-tunes from nothing, on made scenes and on RSICD: singles, average, maximum and greedy on a split that chose nothing."""
    import soup_pools as script

    for pool in script.RECIPES:
        if pool == "rsicd" and not (bench.data / "rsicd").is_dir():
            raise Unmeasured(f"{bench.data / 'rsicd'} is not there: give the folder of the data sets with --data")
        try:
            run = script.run_pool(pool, bench.out / "soups", bench.data, bench.overrides, bench.program)
        except RuntimeError as failed:
            raise Unmeasured(str(failed)) from failed
        found = script.figures_of(run)
        yield Figure(name=f"soups {pool} singles", values=tuple(one["value"] for one in found["singles"].values()), note=", ".join(found["singles"]))
        for name in script.SOUPS:
            own = found[name]
            beside = [f"95 % {own['low']:.3f} to {own['high']:.3f}", *(f"{told} {_ends(one)}" for told, one in found["gains"].items() if told.startswith(name))]
            yield Figure(name=f"soups {pool} {name}", values=(own["value"],), note="; ".join(beside))
        same = {*found["selected_on"]} & {*found["reported_on"]}
        yield Figure(name=f"soups {pool} selected on test", values=(float(bool(same or found["stamp"])),), most=0.0, note="1 = what is reported also chose")


def _ends(gain: dict[str, float]) -> str:
    return f"{gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f}, paired)"


@contextmanager
def _rate(rates: list[float], count: int) -> Iterator[None]:
    start = time.monotonic()
    yield
    rates.append(count / (time.monotonic() - start))


def reading(bench: Bench, count: int = SCENES) -> Iterator[Figure]:
    """Scenes made, read by three readers and joined into a store, then visited in random order."""
    from sightline.data.reading import READER, read_into
    from sightline.data.scenes import Scenes, make

    making: list[float] = []
    reads: list[float] = []
    visits: list[float] = []
    readers = [READER.table()[kind]() for kind in ("karpathy-captions", "label-masks", "dota")]
    bench.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=bench.out) as scratch:
        layout = Path(scratch) / "scenes"
        for number in range(bench.seeds):
            with _rate(making, count):
                make(Scenes(count=count, seed=number), layout)
            with _rate(reads, count):
                store = read_into(layout, readers, Path(scratch) / "store")  # pyright: ignore[reportArgumentType]
            with _rate(visits, len(store)):
                for row in np.random.default_rng(number).permutation(len(store)).tolist():
                    assert store[row].pictures
    yield Figure(name="reading make", values=tuple(making), unit="scenes/s", least=200)
    yield Figure(name="reading read", values=tuple(reads), unit="rows/s", least=200)
    yield Figure(name="reading visit", values=tuple(visits), unit="rows/s", least=1000, note="in random order")


def scores(bench: Bench, count: int = CAPTIONS) -> Iterator[Figure]:
    """Metrics of captions with five references each, and their intervals."""
    from sightline.evaluate.metrics import caption_metrics

    words = [f"word{number}" for number in range(500)]
    times: list[float] = []
    for seed in range(bench.seeds):
        rng = np.random.default_rng(seed)
        said = [[words[number] for number in rng.integers(0, len(words), 12)] for _ in range(6 * count)]
        references = [said[place + count :: count] for place in range(count)]
        start = time.monotonic()
        found = caption_metrics(said[:count], references, range(count), rng)
        times.append(time.monotonic() - start)
        assert found["bleu-1"].n == count
    yield Figure(name="scores captions", values=tuple(times), unit="s", most=10, note=f"{count} captions, 200 resamples")


def read_write(bench: Bench, rows: int = 100_000) -> Iterator[Figure]:
    """Reading and writing 100,000 caption rows with pictures of 20 KB: memory of all processes, and rows/s beside a plain loop."""
    with tempfile.TemporaryDirectory() as scratch:
        annotations = make_captions(Path(scratch) / "made", rows)
        ours = measured(read_ours, annotations, Path(scratch) / "ours")
        theirs = measured(plain_loop, annotations, Path(scratch) / "theirs")
    beside = f"{rows} rows; a plain loop that keeps nothing: {theirs.rows / theirs.seconds:.0f} rows/s, {theirs.rss / 1e6:.0f} MB"
    yield Figure(name="read-write memory", values=(ours.rss / 1e6,), unit="MB", most=1000.0, note="all processes together, shared pages counted in each")
    yield Figure(name="read-write speed", values=(ours.rows / ours.seconds,), unit="rows/s", note=beside)


def data_check(bench: Bench, photos: int = PHOTOS) -> Iterator[Figure]:
    """`data check` beside a loop that only decodes the same pictures."""
    yield from check_speed(bench.data, bench.seeds, photos)


def perplexity(bench: Bench) -> Iterator[Figure]:
    """Scoring captions, beside a loop over transformers on the same weights."""
    yield from perplexity_speed(bench.seeds)


def training(bench: Bench, steps: int | None = None) -> Iterator[Figure]:
    """Workload A beside transformers.Trainer on the same weights and rows, in turn; about a quarter of an hour on two cores."""
    import train_vs_transformers as script

    with tempfile.TemporaryDirectory() as scratch:
        found = script.compare(Path(scratch), bench.seeds, steps or script.STEPS, script.SAID)
    spreads, bars = found["spreads"], script.BARS
    beside = f"{found['ours']:.3g} samples per processor second; over transformers.Trainer's {found['peer']:.3g}"
    yield Figure(name="training speed", values=tuple(spreads["ratio"]["values"]), unit="times", least=bars["ratio"], note=beside)
    yield Figure(name="training speed, cached", values=tuple(spreads["cached_ratio"]["values"]), unit="times", least=bars["cached_ratio"], note="from features")
    yield Figure(name="training memory", values=tuple(spreads["peak_memory_ratio"]["values"]), unit="times", most=bars["peak_memory_ratio"], note="peak")
    first = tuple(abs(math.log(one / other)) for one, other in found["first"]["float32"].values())
    yield Figure(name="training first step", values=first, most=1e-4, take="largest", note="|log ratio| of loss and gradient norm to the peer's, float32")


def contrastive(bench: Bench) -> Iterator[Figure]:
    """A dual tower trained beside open_clip on the same weights and pairs, in turn."""
    import contrastive_vs_open_clip as script

    told = script.told_by([f"--pairs={bench.seeds}"])
    try:
        env = script.make_env(told.env)
    except script.NoPeer as absent:
        raise Unmeasured(str(absent)) from absent
    with tempfile.TemporaryDirectory() as scratch:
        found = script.compare(Path(scratch), env, told)
    beside = f"{found['ours']:.3g} pairs per processor second; over open_clip's {found['peer']:.3g}"
    yield Figure(name="contrastive speed", values=tuple(found["spreads"]["ratio"]["values"]), unit="times", note=beside)
    yield Figure(name="contrastive memory", values=tuple(found["spreads"]["peak_memory_ratio"]["values"]), unit="times", note="peak")
    first = tuple(found["first_differences"]["float32"].values())
    yield Figure(name="contrastive first step", values=first, most=1e-4, take="largest", note="|log ratio| of loss and gradient norm to the peer's, float32")


LINES: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "help-time": help_time,
    "plan-time": plan_time,
    "reading": reading,
    "scores": scores,
    "read-write": read_write,
    "data-check": data_check,
    "perplexity": perplexity,
    "contrastive": contrastive,
    "training": training,
    "quickstart": quickstart,
    "rsicd": rsicd,
    "soups": soups,
    "tasks": tasks,
}
"""Short ones first."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the chosen lines; 1 when a figure failed."""
    about = "\n".join(f"  {name:12}{' '.join((line.__doc__ or '').split())}" for name, line in LINES.items())
    parser = argparse.ArgumentParser(description=__doc__, epilog=f"lines:\n{about}", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(LINES), metavar="NAME", help="measure this line; may be repeated")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs or repetitions of each figure (default: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    parser.add_argument("--record", action="store_true", help="append a table to benchmarks/RESULTS.md")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench", metavar="DIR", help="folder of the runs (default: runs/bench)")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", metavar="DIR", help="folder of the real data sets")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an override of every recipe that is run, for trying out")
    arguments = parser.parse_args(argv)
    if arguments.seeds < 1:
        parser.error("--seeds: at least 1")
    if arguments.record and arguments.set:
        parser.error("--record: figures with --set are not those of the shipped recipes")
    bench = Bench(out=arguments.out.resolve(), data=arguments.data.resolve(), seeds=arguments.seeds, overrides=tuple(arguments.set))
    names = arguments.only or list(LINES)
    found = show(measure({name: partial(LINES[name], bench) for name in names}))
    if arguments.json or arguments.record:
        circumstances = Circumstances.now()
        if arguments.json:
            write_json(arguments.json, {**asdict(circumstances), "figures": [figure.record() for figure in found]})
        if arguments.record:
            flags = " ".join([*(f"--only {name}" for name in arguments.only or []), f"--seeds {bench.seeds}"])
            append(RESULTS, table(found, circumstances, f"bench.py {flags}"))
    return int(any(not figure.passed for figure in found))


if __name__ == "__main__":
    sys.exit(main())

"""`make soak`: what is slow to prove. Runs killed at random moments, hostile pictures, recipes, JSON and requests, many rows. One PASS or FAIL line each; exit code 1 when one failed."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import hostile_corpus
import hostile_json
import hostile_pictures
import hostile_recipes
import killed_runs
import resume_torture
import served_requests
from figures import ROOT, Figure, measure, show
from hostile_pictures import Outcome, encoded, peak, sample_picture

ROWS = 20_000
SHOWN = 10
"""Faults of a line that are printed in full."""


@dataclass(frozen=True, kw_only=True)
class Soak:
    """What all lines are told."""

    scratch: Path
    """A folder that is removed afterwards."""
    seed: int = 0
    kills: int = 12
    deaths: int = 30
    tries: int = 60
    sets: int = 10_000
    """Hostile data sets."""
    requests: int = 10_000
    """To a server."""
    program: tuple[str, ...] = (str(Path(sys.executable).with_name("sightline")),)


def judged(name: str, outcomes: Iterable[Outcome]) -> Figure:
    """One figure: how many hostile inputs misbehaved, which has to be none. Each fault is printed as it is found, up to ten."""
    count, faults, slowest = 0, 0, 0.0
    for outcome in outcomes:
        count += 1
        slowest = max(slowest, outcome.seconds)
        if outcome.fault:
            faults += 1
            if faults <= SHOWN:
                print(f"      {name}: {outcome.name}: {outcome.fault}", flush=True)
    assert count, f"{name} tried nothing"
    return Figure(name=name, values=(float(faults),), unit="faults", most=0, note=f"{count} tried, the slowest took {slowest:.1f} s")


def kill(soak: Soak) -> Iterator[Figure]:
    """A tiny quickstart killed at random moments and run again."""
    scratch = _folder(soak, "kill")
    yield judged("kill", killed_runs.check_all(soak.program, ROOT / "recipes" / "quickstart.yaml", scratch, soak.seed, soak.kills))


def resume_torture_line(soak: Soak) -> Iterator[Figure]:
    """Four stages killed again and again, a third of the times inside the writing of a checkpoint: the last bit of the weights is that of an undisturbed run."""
    yield judged("resume-torture", resume_torture.check_all(_folder(soak, "torture"), soak.deaths, soak.deaths // 3, soak.seed))


def pictures(soak: Soak) -> Iterator[Figure]:
    """Bombs, torn and garbled files, strips, orientations."""
    yield judged("hostile-pictures", hostile_pictures.check_all(soak.seed, soak.tries))


def recipes(soak: Soak) -> Iterator[Figure]:
    """Alias bombs, huge and deep texts, tags, paths that lead out."""
    yield judged("hostile-recipes", hostile_recipes.check_all(_folder(soak, "recipes"), soak.seed, soak.tries))


def json_files(soak: Soak) -> Iterator[Figure]:
    """Torn, deep, huge and wrongly typed JSON for every reader."""
    yield judged("hostile-json", hostile_json.check_all(_folder(soak, "json"), max(2, soak.tries // 3)))


def corpus(soak: Soak) -> Iterator[Figure]:
    """Hostile data sets for all readers and `data check`, each in time, in bounded memory, with every row accounted for."""
    report = hostile_corpus.Report()
    yield judged("hostile-corpus", hostile_corpus.check_all(_folder(soak, "corpus"), soak.seed, soak.sets, report))
    ends, rows = report.tally.ends, report.tally.rows
    read = f"{ends['read']:,} sets read, {ends['refused']:,} refused; {rows['kept']:,} rows kept, {rows['refused']:,} refused"
    slowest = report.slowest
    yield Figure(name="hostile-corpus read", values=(ends["read"] / soak.sets,), least=0.3, note=read)
    yield Figure(name="hostile-corpus slowest", values=(slowest.seconds,), unit="s", most=hostile_corpus.SECONDS, note=slowest.name[:100])
    yield Figure(name="hostile-corpus memory", values=(report.mebibytes,), unit="MiB", most=hostile_corpus.MEBIBYTES, note="all processes, each at its peak")


def serve(soak: Soak) -> Iterator[Figure]:
    """A server under many requests, some given up and some hostile: none fails, and its memory stays what it was."""
    load = served_requests.Load()
    yield judged("serve", served_requests.check_all(soak.program, _folder(soak, "serve"), soak.seed, soak.requests, load))
    told = f"{load.early:.0f} MiB at a tenth, {load.late:.0f} at the end; {load.counts['given']} given up, {load.counts['hostile']} hostile"
    yield Figure(name="serve memory", values=(100 * (load.late / load.early - 1),), unit="% more", most=5, note=told)


def read_many(soak: Soak, rows: int = ROWS) -> Iterator[Figure]:
    """Many small rows with a picture each: all of them arrive, in bounded memory, at a steady rate."""
    from sightline.data.reading import read_into

    folder = _folder(soak, "many")
    (folder / "images").mkdir()
    for number in range(rows):
        picture = sample_picture()
        picture.putpixel((number % 24, number // 24 % 16), (number & 255, number >> 8 & 255, 7))
        (folder / "images" / f"{number}.png").write_bytes(encoded(picture, "PNG"))
    talk = [{"from": "human", "value": "<image>\nWhat is there?"}, {"from": "gpt", "value": "a pond"}]
    lines = (json.dumps({"id": str(number), "image": f"{number}.png", "conversations": talk}) for number in range(rows))
    (folder / "talks.jsonl").write_text("\n".join(lines))
    before, start = peak(), time.monotonic()
    store = read_into(folder, "auto", folder / "store")
    rate = rows / (time.monotonic() - start)
    yield Figure(name="read-many rows", values=(float(store.counts()["kept"]),), least=rows, most=rows)
    yield Figure(name="read-many rate", values=(rate,), unit="rows/s", least=500)
    yield Figure(name="read-many memory", values=(peak() - before,), unit="MiB", most=512, note="growth of this process")


def _folder(soak: Soak, name: str) -> Path:
    folder = soak.scratch / name
    folder.mkdir()
    return folder


LINES: dict[str, Callable[[Soak], Iterator[Figure]]] = {
    "read-many": read_many,
    "hostile-pictures": pictures,
    "hostile-recipes": recipes,
    "hostile-json": json_files,
    "hostile-corpus": corpus,
    "serve": serve,
    "kill": kill,
    "resume-torture": resume_torture_line,
}
"""What is measured in memory comes first, while the process is small."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen lines; 1 when one failed."""
    about = "\n".join(f"  {name:18}{' '.join((line.__doc__ or '').split())}" for name, line in LINES.items())
    parser = argparse.ArgumentParser(description=__doc__, epilog=f"lines:\n{about}", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(LINES), metavar="NAME", help="run this line; may be repeated")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")
    parser.add_argument("--kills", type=int, default=12, metavar="N", help="runs to kill (default: 12)")
    parser.add_argument("--deaths", type=int, default=30, metavar="N", help="times that one run is killed in training (default: 30)")
    parser.add_argument("--tries", type=int, default=60, metavar="N", help="garbled variants of each file (default: 60)")
    parser.add_argument("--requests", type=int, default=10_000, metavar="N", help="requests to a server (default: 10000)")
    parser.add_argument("--sets", type=int, default=10_000, metavar="N", help="hostile data sets (default: 10000)")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="sightline-soak-") as scratch:
        counts = {name: getattr(arguments, name) for name in ("seed", "kills", "deaths", "tries", "sets", "requests")}
        soak = Soak(scratch=Path(scratch), **counts)
        found = show(measure({name: partial(LINES[name], soak) for name in arguments.only or LINES}))
    return int(any(not figure.passed for figure in found))


if __name__ == "__main__":
    sys.exit(main())

"""Hostile data sets for every reader: a small whole set of a format with one to three things wrong, read, stored, and checked. Each try is decided by its name alone and can be run again.

python benchmarks/hostile_corpus.py KIND:NUMBER [--seed N] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any
from zlib import crc32

import numpy as np
from hostile_mutations import Contents, lay_out, tampered
from hostile_pictures import Outcome
from hostile_sets import kinds, whole

from sightline.data.check.checking import check
from sightline.data.engine import Local
from sightline.data.readers.reader import Reader, Row
from sightline.data.reading import read_into
from sightline.errors import Problem, Refused
from sightline.samples.pictures import pixels
from sightline.samples.store import Store

SECONDS = 5.0
"""Processor time that one try may take: it has several records, and the machine may be busy with other things."""
MEBIBYTES = 1536.0
"""What all processes may hold together."""
RESERVED = 4 << 30
"""Bytes that a process may reserve; most of it is never touched, and what is touched is measured."""
PATIENCE = 120.0
"""Seconds after which a process that says nothing is ended."""
_STOP = 60.0
"""Seconds after which Python code is interrupted, so that its place is known."""
_SELDOM = 0.2
"""Share of tries that are read from a file in place of a folder, that are read as another format, that are given to `data check`, and that are written in another format."""


class Overdue(BaseException):
    """A try took so long that it was interrupted; no handler of exceptions may take it for a broken file."""


@dataclass(frozen=True, kw_only=True)
class Try:
    """One hostile data set."""

    kind: str
    number: int
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}"

    def draw(self) -> tuple[str, Contents, np.random.Generator]:
        """(what is wrong, the folder, the generator of random numbers for what follows)."""
        rng = np.random.default_rng([self.seed, crc32(self.kind.encode()), self.number])
        contents: Contents = dict(whole(self.kind))
        done: list[str] = []
        for _ in range(int(rng.integers(1, 4))):
            what, contents = tampered(contents, rng)
            done.append(what)
        return "; ".join(done), contents, rng


@dataclass(kw_only=True)
class Tally:
    """What became of the rows of many tries."""

    ends: Counter[str] = field(default_factory=Counter)
    """Tries that were read, and that were refused as a whole."""
    rows: Counter[str] = field(default_factory=Counter)
    """Rows that were kept, quarantined and refused."""


def attempt(one: Try, scratch: Path, tally: Tally) -> Outcome:
    """Lay out a try in a new folder below `scratch`, read it every way, and remove it. A fault is any exception but Refused, a row too many or too few, a problem that says too little, and time."""
    folder = scratch / f"{one.kind}-{one.number}"
    what, contents, rng = one.draw()
    lay_out(contents, folder)
    fault, start = "", time.process_time()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            _read_every_way(kinds()[one.kind](), folder, scratch, rng, tally)
    except Overdue:
        fault = f"interrupted after {_STOP:g} s in {_where()}"
    except Exception as error:
        fault = f"{type(error).__name__} came through: {error} in {_where()}"
    seconds = time.process_time() - start
    if not fault and seconds > SECONDS:
        fault = f"took {seconds:.1f} s"
    _remove(scratch)
    return Outcome(name=f"{one} ({what[:300]})", fault=fault[:600], seconds=seconds)


def _where() -> str:
    """The last lines of this project under the exception that is being handled."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    ours = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if "sightline" in frame.filename]
    return " < ".join(reversed(ours[-4:])) or "the harness"


def _remove(scratch: Path) -> None:
    for entry in scratch.iterdir():
        if stat.S_ISDIR(entry.lstat().st_mode):
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _read_every_way(reader: Reader, folder: Path, scratch: Path, rng: np.random.Generator, tally: Tally) -> None:
    known = [other for other in kinds() if _recognised(other, folder)]
    target = folder
    if rng.random() < _SELDOM and (files := sorted(reader.annotated(folder))):
        target = files[int(rng.integers(len(files)))]
    if rng.random() < _SELDOM:
        reader = kinds()[sorted(kinds())[int(rng.integers(len(kinds())))]]()
    try:
        listed = list(reader.rows(target))
        store = read_into(target, reader, scratch / "store", on_problem="quarantine", workers=1)
    except Refused as refused:
        _told(refused.problems)
        tally.ends["refused"] += 1
    else:
        tally.ends["read"] += 1
        _accounted(listed, store, tally)
        if rng.random() < _SELDOM:
            _checked(store.path, len(listed))
        if rng.random() < _SELDOM:
            _written(kinds()[sorted(kinds())[int(rng.integers(len(kinds())))]](), store, scratch / "written")
    if known and rng.random() < _SELDOM:
        _checked(folder, None)


def _recognised(kind: str, folder: Path) -> bool:
    """Whether a reader takes the folder for its own. It may refuse a folder, but has to say why."""
    reader = kinds()[kind]()
    try:
        found = reader.recognise(folder)
        reader.annotated(folder)
    except Refused as refused:
        _told(refused.problems)
        return False
    assert found is None or (0.0 <= found[0] <= 1.0 and found[1]), f"{kind} recognises with {found}"
    return found is not None


def _told(problems: Iterable[Problem]) -> None:
    for problem in problems:
        assert problem.code and problem.place and problem.found and problem.fix, f"a problem that says too little: {problem.record()}"
        str(problem).encode()


def _accounted(listed: Sequence[Row | Problem], store: Store, tally: Tally) -> None:
    """Rows in = kept + quarantined + refused; what is kept is whole and can be shown."""
    counts = store.counts()
    assert sum(counts.values()) == len(listed), f"{len(listed)} rows listed, {counts} in the store"
    _told(found for found in listed if isinstance(found, Problem))
    refusals = store.refusals()
    assert len(refusals) == counts["refused"] and all(refusals), "a row is refused and nothing says why"
    _told(problem for problems in refusals for problem in problems)
    _told(store.warnings())
    for sample in store:
        assert sample.problems("store") == [], "a stored sample has problems"
        for picture in sample.pictures:
            shape = pixels(picture, store.path).shape
            assert shape == (picture.height, picture.width, len(picture.bands)), f"a stored picture of {picture.width}x{picture.height} px decodes to {shape}"
    tally.rows.update(counts)


def _written(writer: Reader, store: Store, out: Path) -> None:
    """What was read can be written in another format, or the problems name what cannot; what was written is read without a crash."""
    try:
        _told(writer.write(list(store), out))
        _told(found for found in writer.read(out) if isinstance(found, Problem))
    except Refused as refused:
        _told(refused.problems)


def _checked(path: Path, rows: int | None) -> None:
    """`data check` counts every row, and its page can be written."""
    try:
        checked = check([path], engine=Local(workers=1))
    except Refused as refused:
        _told(refused.problems)
        return
    counts = checked.counts
    assert counts["rows"] == counts["clean"] + counts["flagged"] + counts["refused"], f"check counts {counts}"
    assert rows is None or counts["rows"] == rows, f"check counts {counts} of {rows} rows"
    str(checked).encode()
    checked.record()


# many tries


def tries(seed: int, count: int) -> list[Try]:
    """`count` tries, spread over all kinds."""
    names = sorted(kinds())
    return [Try(kind=names[number % len(names)], number=number // len(names), seed=seed) for number in range(count)]


def peak() -> float:
    """MiB that this process held at most since `lowered`, or since it began."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def lowered() -> None:
    """Begin to measure `peak` anew, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _overdue(number: int, frame: FrameType | None) -> None:
    raise Overdue


def _work(tasks: Any, seed: int, scratch: Path) -> None:
    """One process: tries come in, outcomes go out, until None comes. What it may reserve has a limit, so that a bomb ends here and not in the machine."""
    resource.setrlimit(resource.RLIMIT_DATA, (RESERVED, RESERVED))
    signal.signal(signal.SIGALRM, _overdue)
    while (one := tasks.recv()) is not None:
        tally = Tally()
        lowered()
        signal.setitimer(signal.ITIMER_REAL, _STOP)
        try:
            outcome = attempt(one, scratch, tally)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        tasks.send((outcome, peak(), tally))


@dataclass(kw_only=True)
class _Worker:
    """A process, the try that it is at, and since when."""

    process: BaseProcess
    tasks: Any
    """The end of a pipe whose class depends on the system."""
    at: Try | None = None
    since: float = 0.0
    peak: float = 0.0

    def give(self, one: Try | None) -> None:
        self.at, self.since = one, time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            self.tasks.send(one)


@dataclass(kw_only=True)
class Report:
    """What many tries came to."""

    tally: Tally = field(default_factory=Tally)
    mebibytes: float = 0.0
    """The most that the processes held together, each at its own peak."""
    slowest: Outcome = field(default_factory=lambda: Outcome(name="none"))


def check_all(scratch: Path, seed: int, count: int, report: Report, workers: int = 2) -> Iterator[Outcome]:
    """All tries in processes of their own; one that dies or hangs is a fault of its try, and another takes its place."""
    waiting = iter(tries(seed, count))
    team = [_started(scratch / f"worker-{number}", seed) for number in range(workers)]
    try:
        for worker in team:
            worker.give(next(waiting, None))
        while busy := [worker for worker in team if worker.at is not None]:
            ready = connection.wait([worker.tasks for worker in busy], timeout=1.0)
            for worker in busy:
                outcome = _heard(worker, worker.tasks in ready, report)
                if outcome is None:
                    continue
                report.mebibytes = max(report.mebibytes, peak() + sum(member.peak for member in team))
                report.slowest = max(report.slowest, outcome, key=lambda one: one.seconds)
                yield outcome
                if not worker.process.is_alive() or outcome.fault.startswith("the process"):
                    _ended(worker)
                    team[team.index(worker)] = worker = _started(scratch / f"worker-{time.monotonic_ns()}", seed)
                worker.give(next(waiting, None))
    finally:
        for worker in team:
            _ended(worker)


def _heard(worker: _Worker, ready: bool, report: Report) -> Outcome | None:
    """What a process said, or the fault that it will say nothing any more; None while it works."""
    assert worker.at is not None, "a process that has nothing to do is not listened to"
    spent = time.monotonic() - worker.since
    if ready:
        try:
            outcome, worker.peak, tally = worker.tasks.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join(5.0)
            return Outcome(name=str(worker.at), fault=f"the process died with {worker.process.exitcode}", seconds=spent)
        report.tally.ends.update(tally.ends)
        report.tally.rows.update(tally.rows)
        return outcome
    return Outcome(name=str(worker.at), fault=f"the process hung for {spent:.0f} s", seconds=spent) if spent > PATIENCE else None


def _started(scratch: Path, seed: int) -> _Worker:
    scratch.mkdir()
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, seed, scratch), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process=process, tasks=ours)


def _ended(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.tasks.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one try and say what came of it; 1 when it misbehaved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="KIND:NUMBER", help="the try, as a fault names it")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="lay the hostile data set out here")
    arguments = parser.parse_args(argv)
    kind, _, number = arguments.name.partition(":")
    one, tally = Try(kind=kind, number=int(number), seed=arguments.seed), Tally()
    if arguments.keep is not None:
        lay_out(one.draw()[1], arguments.keep)
    with tempfile.TemporaryDirectory(prefix="sightline-hostile-") as scratch:
        outcome = attempt(one, Path(scratch), tally)
    print(
        f"{outcome.name}\n{outcome.fault or 'no fault'}, {outcome.seconds:.1f} s, {dict(tally.ends)} {dict(tally.rows)}, at most {peak():.0f} MiB of pid {os.getpid()}"
    )
    return int(bool(outcome.fault))


if __name__ == "__main__":
    sys.exit(main())

"""`sightline report`: live.html, a page of a run that is going on, or of one that failed or was stopped. Drawn from events.jsonl alone, with the pictures that its events name."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from sightline.errors import Problem, Refused
from sightline.page import Html, Page, chart, columns, escape, listing, paragraph, picture, span, table, tiles
from sightline.progress import duration
from sightline.run_events import Event, EventReader
from sightline.run_history import Curves, History, NodeState, StageHistory, history, number_of
from sightline.samples.pictures import read_picture, rgb_pixels

NAME = "live.html"
EVERY = 5
"""Seconds between two drawings of a page that is watched."""
_POINTS = 400
"""Points of a drawn curve: more do not fit side by side."""
_CURVES = 8
"""Curves of one chart: as many as there are colours."""
_PROBED = 7
"""Steps whose answers stand side by side."""
_SHOWN = 36
"""Rows of a fault that are shown; all are in events.jsonl."""
_LISTED = 12
"""Checkpoints of a stage that are listed, the last ones."""
_SIDE = 320
"""Longest side of a shown picture, px."""
_LARGEST = 60_000
"""Bytes of a picture that goes into the page as it is."""
_MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp"}
_STYLES = {"running": "", "done": "good", "failed": "bad", "stopped": "fair", "cut off": "fair"}
_STATES = {"running": "at work", "done": "done", "failed": "failed", "stopped": "stopped", "cut off": "cut off: begun, and neither ended nor failed"}


class LivePage:
    """The page of a run, drawn again as often as `draw` is called. Raises Refused where `run` holds no events."""

    def __init__(self, run: Path) -> None:
        self.run, self.path = run, run / NAME
        self._reader = EventReader(run / "events.jsonl")
        if not self._reader.path.is_file():
            raise Refused(
                Problem(
                    code="usage/no-run",
                    place=str(run),
                    found="no events.jsonl" if run.is_dir() else "no such folder",
                    allowed="the folder of a run that has begun",
                    fix="sightline run RECIPE --out RUN",
                )
            )

    def facts(self) -> History:
        """What the events come to now."""
        return history(self._reader.read())

    def draw(self, refresh: int | None = None) -> History:
        """Replace live.html; `refresh`: seconds after which a browser reads it again, as long as the run goes on. Returns what was drawn."""
        found = self.facts()
        page(found, self.run, refresh if found.state == "running" else None).write(self.path)
        return found

    def watch(self, every: int, tell: Callable[[History], None]) -> History:
        """Draw every so many seconds until the run ends, telling each time; in the end, and when it is interrupted, once more as a page that stays."""
        try:
            while (found := self.draw(every)).state == "running":
                tell(found)
                time.sleep(every)
            return found
        except KeyboardInterrupt:
            self.draw()
            raise


def page(found: History, run: Path, refresh: int | None = None) -> Page:
    """The page of a run's facts; pictures are read from its folder."""
    drawn = Page(found.recipe or run.name, f"{run}, drawn {found.seen.astimezone():%Y-%m-%d %H:%M:%S}", refresh)
    drawn.add(paragraph(_verdict(found), "verdict"))
    if found.stage is not None:
        drawn.add(_tiles(found, found.stage))
    failed = [node for node in found.nodes if node.name == found.node and node.problems]
    if failed:
        drawn.section("What ended it", *(_problem(problem) for node in failed for problem in node.problems))
    order = sorted(found.stages, key=lambda stage: stage is not found.stage)
    for stage in order:
        _faults(drawn, stage.name, stage.faults, "", run)
    for stage in order:
        _stage(drawn, stage, run, folded=stage is not found.stage)
    for stage in order:
        _faults(drawn, stage.name, stage.earlier_faults, ", in an earlier attempt", run)
    drawn.section("Nodes", _nodes(found))
    if found.scores:
        rows = [(name, metric, f"{value:.3f}") for name, metrics in found.scores.items() for metric, value in metrics.items()]
        drawn.section("Scores", table(("evaluation", "", "model"), rows, numeric=(2,)), note="Against which controls: report.html.")
    if found.writers:
        drawn.section("Writers", listing(writer_text(event) for event in found.writers))
    return drawn


def status(found: History) -> str:
    """The run in one line of plain text."""
    return "; ".join([_doing(found), _heard(found)])


def _doing(found: History) -> str:
    if found.state != "running":
        where = f" in {found.node}" if found.node else ""
        return {"done": "done: report.html has the scores", "failed": f"failed{where}", "stopped": f"stopped{where}: the same command goes on from there"}.get(
            found.state, found.state
        )
    stage = found.stage
    if stage is None or found.node != f"stages/{stage.name}" or stage.step is None:
        return f"at work on {found.node}" if found.node else "between two nodes"
    of = f" of {stage.steps:,}" if stage.steps else ""
    more = [
        f"{stage.rate:.3g} steps/s" if stage.rate else "",
        f"{duration(stage.seconds_left)} left" if stage.seconds_left is not None and not found.stale else "",
    ]
    return ", ".join([f"training {stage.name}: step {stage.step:,}{of}", *filter(None, more)])


def _heard(found: History) -> str:
    if found.silent is None:
        return "no event says when it was written"
    ago = duration(max(found.silent, 0))
    return f"no event for {ago}: look whether its process is still there" if found.stale else f"last event {ago} ago"


def _verdict(found: History) -> Html:
    doing = span(_doing(found), _STYLES.get(found.state, "bad"))
    return Html(f"{doing}; {span(_heard(found), 'bad' if found.stale else 'small')}")


def _tiles(found: History, stage: StageHistory) -> Html:
    latest = stage.latest
    known = {name: value for name in ("loss", "tokens_per_second", "mfu", "memory_gib") if (value := number_of(latest.get(name))) is not None}
    rows: list[tuple[object, object, object]] = []
    if stage.step is not None:
        share = f"{stage.step / stage.steps:.0%} of {stage.steps:,}" if stage.steps else ""
        rows.append((f"step of {stage.name}", f"{stage.step:,}", share))
    if stage.seconds_left is not None and found.state == "running" and not found.stale:
        rows.append(("time left", duration(stage.seconds_left), f"{stage.rate:.3g} steps/s"))
    if "loss" in known:
        rows.append(("loss", f"{known['loss']:.3f}", ", ".join(f"{name} {value:.3f}" for name, value in latest.get("terms", {}).items())))
    if "tokens_per_second" in known:
        rows.append(("tokens per second", f"{known['tokens_per_second']:,.0f}", f"mfu {known['mfu']:.1%}" if "mfu" in known else ""))
    if "memory_gib" in known:
        rows.append(("memory", f"{known['memory_gib']:.2f}", f"GiB, {latest.get('memory_kind') or 'peak'}"))
    return tiles(rows) if rows else Html()


def _problem(problem: Event) -> Html:
    lines = [f"{problem['code']} at {problem['place']}"] if "code" in problem else []
    lines += [f"{key}: {problem[key]}" for key in ("found", "allowed", "fix") if problem.get(key)]
    return Html(f'<pre style="white-space:pre-wrap">{escape(chr(10).join(lines))}</pre>')


def _nodes(found: History) -> Html:
    names = [node.name for node in found.nodes]
    rows: list[Sequence[object]] = [_node(node) for node in found.nodes]
    rows += [(f"stages/{name}", span("waits", "small"), "") for name in found.planned if f"stages/{name}" not in names and found.state == "running"]
    return table(("node", "state", "time"), rows, numeric=(2,))


def _node(node: NodeState) -> Sequence[object]:
    return node.name, span(_STATES[node.state], _STYLES[node.state] or "small"), "" if node.seconds is None else duration(node.seconds)


def _stage(drawn: Page, stage: StageHistory, run: Path, folded: bool) -> None:
    """Curves, probe answers and checkpoints of a stage; folded, they are seen when they are asked for."""
    shown = {quantity: curves for quantity, curves in stage.curves.items() if _tells(quantity, curves)}
    said = f"{_STATES.get(stage.state, stage.state)}, {stage.step or 0:,} steps" + (f" of {stage.steps:,}" if stage.steps else "")
    blocks = [columns(_chart(quantity, curves) for quantity, curves in shown.items())]
    if stage.probes:
        blocks += ["<h3>Probe answers</h3>", _probes(stage.probes, run)]
    if stage.checkpoints:
        blocks += ["<h3>Checkpoints</h3>", listing(_checkpoint(event) for event in stage.checkpoints[-_LISTED:])]
    whole = "".join(blocks)
    drawn.section(
        f"Stage {stage.name}", Html(f"<details><summary>{escape(said)}</summary>{whole}</details>" if folded else f"{paragraph(said, 'lead')}{whole}")
    )


def _tells(quantity: str, curves: Curves) -> bool:
    """Whether a chart shows anything: more than one point, and of losses told apart more than one."""
    return len(curves) > 1 or (not quantity.startswith("loss by") and any(len(curve) > 1 for curve in curves.values()))


def _chart(quantity: str, curves: Curves) -> Html:
    most = sorted(curves, key=lambda name: -len(curves[name]))[:_CURVES]
    more = f", and {len(curves) - _CURVES} more" if len(curves) > _CURVES else ""
    return chart({name: thinned(curves[name]) for name in curves if name in most}, quantity + more)


def thinned(curve: Sequence[tuple[int, float]], limit: int = _POINTS) -> list[tuple[int, float]]:
    """At most `limit` points (or 2, if that is more): of each stretch of a curve the lowest and the highest, in order, so that no spike is lost. First and last stay."""
    if len(curve) <= limit:
        return list(curve)
    stretches = max((limit - 2) // 2, 0)
    inside = range(1, len(curve) - 1)
    kept = {0, len(curve) - 1}
    for number in range(stretches):
        own = inside[number * len(inside) // stretches : (number + 1) * len(inside) // stretches]
        kept |= {min(own, key=lambda place: curve[place][1]), max(own, key=lambda place: curve[place][1])}
    return [curve[place] for place in sorted(kept)]


def _checkpoint(event: Event) -> Html:
    kind, step = event["event"], event.get("step")
    said = f"{event.get('time', '')[11:19]} " + {
        "resumed": f"went on after step {step}" if event.get("checkpoint") else "started from the first step",
        "stopped": f"stopped by {event.get('signal', 'a signal')} after step {step}",
        "checkpoint-failed": f"step {step} could not be saved: {event.get('why', '')}",
        "checkpoint-not-used": f"{event.get('checkpoint', '')} is not used: {event.get('why', '')}",
        "versions-changed": f"other versions: {event.get('versions', '')}",
    }.get(kind, f"{event.get('checkpoint') or f'step {step}'} written")
    return span(said, "bad" if kind in ("checkpoint-failed", "checkpoint-not-used") else "")


def _probes(probes: Sequence[Event], run: Path) -> Html:
    """One line for each probed row: its picture and question, then the answers at several steps side by side."""
    last = len(probes) - 1
    places = sorted({round(number * last / (_PROBED - 1)) for number in range(_PROBED)}) if last >= _PROBED else range(last + 1)
    shown = [probes[place] for place in places]
    rows: list[Sequence[object]] = []
    for asked in probes[-1]["answers"]:
        told = [next((one for one in probe["answers"] if _key(one) == _key(asked)), None) for probe in shown]
        rows.append((_question(asked, run), *(span(one["answer"] or "(nothing)", _match(one)) if one else "" for one in told)))
    return table(("", *(f"step {probe['step']:,}" for probe in shown)), rows)


def _key(answer: Event) -> tuple[Any, ...]:
    return answer.get("source"), answer.get("row"), answer.get("question")


def _match(answer: Event) -> str:
    return "good" if answer["answer"].strip().casefold() == str(answer.get("wanted") or "").strip().casefold() else ""


def _question(asked: Event, run: Path) -> Html:
    pictures = "".join(_shown(run, name, 96) for name in asked.get("pictures", ()))
    wanted = f"<br>{span('wanted:', 'small')} {escape(asked['wanted'])}" if asked.get("wanted") else ""
    row = span(f"{asked.get('source', '')}:{asked.get('row', '')}", "small")
    words = f"{escape(asked.get('question', ''))}{wanted}<br>{row}"
    return Html(f'<div style="white-space:normal;display:flex;gap:10px;min-width:260px">{pictures}<div>{words}</div></div>')


def _faults(drawn: Page, stage: str, faults: Sequence[Event], when: str, run: Path) -> None:
    """The rows of steps that must not count, named and shown."""
    folder = next(iter(sorted(run.glob(f"stages/[0-9][0-9]-{stage}"))), run)
    for fault in reversed(faults):
        rows = fault.get("rows", [])
        more = f"; {_SHOWN} of {len(rows)} rows are shown, all are in events.jsonl" if len(rows) > _SHOWN else ""
        cards = drawn.cards(_row(row, folder / "faults") for row in rows[:_SHOWN])
        drawn.section(f"Fault in stage {stage} at step {fault['step']:,}{when}", paragraph(f"{fault['code']}: {fault['found']}{more}", "bad"), cards)


def _row(row: Event, folder: Path) -> str:
    return (
        "".join(_shown(folder, name) for name in row.get("pictures", ()))
        + f"<p><b>{escape(row.get('id', ''))}</b></p>{paragraph(row.get('source', ''), 'small')}"
    )


def _shown(folder: Path, name: str, width: int | None = None) -> Html:
    """A picture by its name in a folder, or why it cannot be shown."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        return span(f"{name} lies outside the run", "bad")
    try:
        return picture(*_bytes(path, path.stat().st_mtime_ns), alt=name, width=width)
    except FileNotFoundError:
        return span(f"{name} is gone", "small")
    except (Refused, OSError) as error:
        return span(f"{name} cannot be shown: {error}", "bad")


@lru_cache(maxsize=512)
def _bytes(path: Path, changed: int) -> tuple[bytes, str]:
    """Bytes and media type that a browser can show, small enough for a page; kept for the next drawing until the file changes."""
    if path.suffix in _MEDIA and path.stat().st_size <= _LARGEST:
        return path.read_bytes(), _MEDIA[path.suffix]
    small = Image.fromarray(rgb_pixels(read_picture(path)))
    small.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=85)
    return stream.getvalue(), "image/jpeg"


def writer_text(event: Event) -> str:
    """What became of a writer, in words."""
    name = event.get("writer", "")
    if event["event"] == "writer-failed":
        return f"writer {name}: turned off after {event.get('written', 0)} events: {event.get('why', '')}"
    return f"writer {name}: {event.get('written', 0)} events written" + (f", {event['missed']} missed after it failed" if event.get("missed") else "")


def tell_page(run: Path, say: Callable[[str], None]) -> None:
    """Draw the page of a run that failed and say where it is. What hinders that is said and hides nothing: the run's own fault is about to be told."""
    try:
        live = LivePage(run)
        live.draw()
    except (OSError, Refused) as error:
        say(f"{run / NAME} could not be drawn: {error}")
        return
    say(f"look at {live.path}")

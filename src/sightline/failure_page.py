"""The failure report as one self-contained page, as Markdown, and as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from sightline.evaluate.failures.comparison import Comparison
from sightline.evaluate.failures.evidence import Case
from sightline.evaluate.failures.finding import Failure, Shown, State
from sightline.evaluate.metrics import Value
from sightline.evaluate.report import shown
from sightline.failure_report import FailureReport
from sightline.lineage import write_text
from sightline.page import Html, Page, bar, escape, paragraph, picture, span, table
from sightline.samples.geometry import corners
from sightline.samples.pictures import pixels
from sightline.samples.sample import Picture, RotatedBox
from sightline.training_rows import Near

STYLE = """<style>
.seen { position: relative; margin-bottom: 8px; line-height: 0; } .seen img { margin: 0 !important; } .seen svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.seen polygon { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke; stroke-linejoin: round; } .seen .under { stroke: #000; stroke-opacity: .55; stroke-width: 4; }
.seen .there { stroke: #4be08a; } .seen .said { stroke: #ff5d52; stroke-dasharray: 5 3; }
.chip { display: inline-block; min-width: 7.2em; text-align: center; font-size: 12px; font-weight: 600; border-radius: 99px; padding: 1px 9px; border: 1px solid currentColor; white-space: nowrap; }
.code { font: 12px ui-monospace, monospace; color: var(--soft); } details { margin: 8px 0; } summary { cursor: pointer; color: var(--soft); font-size: 13px; }
.near { display: flex; gap: 8px; margin-top: 8px; font-size: 12.5px; line-height: 1.4; } .near img { width: 48px !important; height: 48px; object-fit: cover; flex: none; margin: 0 !important; }
.wide { display: grid; grid-template-columns: minmax(0, 1fr); gap: 0 28px; } .cards.four { grid-template-columns: repeat(auto-fill, minmax(235px, 1fr)); } .legend { font-size: 13px; color: var(--soft); }
.mark { color: var(--ink); font-weight: 600; }
</style>"""
_STATES: Mapping[State, tuple[str, str]] = {
    "found": ("found", "bad"),
    "unclear": ("unclear", "fair"),
    "clear": ("not found", "good"),
    "not measured": ("not measured", "small"),
}
_SMALL = 96
"""Side of the pictures of training rows, px."""
_PLAIN = ("mean error", "perplexity")
"""Beginnings of names of figures that are no shares."""
_READING = (
    "A failure is found where the whole 95 % interval lies above its limit, the coloured mark; around the limit it is unclear: more answers would tell. "
    "Pictures are resampled, not questions, where several are about one picture."
)


def draw(report: FailureReport) -> Page:
    """The page of a report."""
    page = Page(
        f"What goes wrong: {report.name}",
        f"{len(report.evidence.cases):,} answers, {len({case.picture for case in report.evidence.cases if case.asked.pictures}):,} pictures. {_READING}",
    )
    page.add(STYLE, paragraph(_verdict(report), "verdict"), _overview(report.failures))
    if report.comparison is not None:
        _compared(page, report.comparison)
    order = {"found": 0, "unclear": 1}
    for failure in sorted(report.failures, key=lambda one: (order.get(one.state, 2), one.limit - one.rate.low)):
        if failure.state in order:
            _section(page, failure, report)
    clear = [failure for failure in report.failures if failure.state == "clear"]
    if clear:
        blocks = [
            f"<details><summary>{escape(one.title)} {_code(one)}: {_percent(one.rate.value)} of {one.rate.n:,}</summary>{_figures(one)}</details>"
            for one in clear
        ]
        page.section("Not found", *blocks)
    missing = [failure for failure in report.failures if failure.state == "not measured"]
    if missing:
        page.section("Not measured", table(("failure", "", "why"), [(one.title, _code(one), one.note) for one in missing]))
    return page


def _verdict(report: FailureReport) -> Html:
    found = report.found()
    measured = sum(one.state != "not measured" for one in report.failures)
    if not found:
        return span(f"None of {measured} failures was found.", "good")
    names = "; ".join(one.title[0].lower() + one.title[1:] for one in found)
    return Html(f"{span(f'{len(found)} of {measured} failures were found', 'bad')}: {escape(names)}.")


def _overview(failures: Sequence[Failure]) -> Html:
    rows: list[Sequence[object]] = []
    rank = ("found", "unclear", "clear", "not measured")
    for one in sorted(failures, key=lambda one: (rank.index(one.state), one.limit - one.rate.low)):
        if one.state == "not measured":
            continue
        drawn = bar(one.rate.value, max(0.0, one.rate.low), one.rate.high, [("limit", one.limit)], f"{one.title} {_percent(one.rate.value)}")
        named = Html(f"{_linked(one)}<br>{_code(one)}")
        rows.append((named, _chip(one.state), drawn, Html(f"<b>{_percent(one.rate.value)}</b>"), _interval(one.rate), _percent(one.limit), f"{one.rate.n:,}"))
    return table(("failure", "", "rate, interval, limit", "rate", "95 % interval", "limit", "n"), rows, numeric=(3, 4, 5, 6))


def _linked(failure: Failure) -> Html:
    return (
        Html(f'<a href="#{_anchor(failure)}" style="color:inherit">{escape(failure.title)}</a>')
        if failure.state in ("found", "unclear")
        else Html(escape(failure.title))
    )


def _anchor(failure: Failure) -> str:
    return failure.code.replace("/", "-")


def _chip(state: State) -> Html:
    words, kind = _STATES[state]
    return Html(f'<span class="chip {kind}">{escape(words)}</span>')


def _code(failure: Failure) -> Html:
    return Html(f'<span class="code">{escape(failure.code)}</span>')


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _interval(value: Value) -> str:
    return f"{100 * value.low:.1f} to {100 * value.high:.1f}"


def _number(name: str, value: float) -> str:
    return f"{value:.3g}" if name.startswith(_PLAIN) else _percent(value)


def _figures(failure: Failure) -> Html:
    rows = [
        (name, _number(name, each.value), f"{_number(name, each.low)} to {_number(name, each.high)}", f"{each.n:,}") for name, each in failure.figures.items()
    ]
    return table(("", "value", "95 % interval", "n"), rows, numeric=(1, 2, 3)) if rows else Html()


def _section(page: Page, failure: Failure, report: FailureReport) -> None:
    page.add(f'<div id="{_anchor(failure)}"></div>')
    told = f"{failure.count:,} answers show it. " if failure.count else ""
    lead = Html(f"{_chip(failure.state)} {_code(failure)}")
    fix = Html(f"<p>{span('Look first:', 'mark')} {escape(failure.fix)}.</p>") if failure.fix else Html()
    note = paragraph(failure.note, "small") if failure.note else Html()
    page.section(failure.title, paragraph(lead), paragraph(f"{told}{failure.meaning}"), fix, note, _figures(failure))
    if failure.worst and failure.state == "found":
        boxes = any(one.case.wanted_boxes or one.case.found_boxes for one in failure.worst)
        legend = (
            paragraph(Html(f"{span('solid green', 'good')}: what is there. {span('dashed red', 'bad')}: what the answer says."), "legend") if boxes else Html()
        )
        page.add("<h3>The answers that show it best</h3>", legend, _cards(_card(one, report) for one in failure.worst))


def _cards(blocks: Sequence[str] | object) -> Html:
    return Html('<div class="cards four">' + "".join(f'<div class="card">{block}</div>' for block in blocks) + "</div>")  # pyright: ignore[reportGeneralTypeIssues]


def _card(one: Shown, report: FailureReport) -> str:
    case = one.case
    near = report.near.get((case.evaluation, case.name), ())
    rows = "".join(map(_near, near))
    training = f"<details><summary>training rows most like it</summary>{rows}</details>" if rows else ""
    return f"{seen(case)}{told(case)}{paragraph(one.note, 'small')}{paragraph(f'{case.evaluation}: {case.kind}, {case.name}', 'small')}{training}"


def told(case: Case, beside: Case | None = None) -> str:
    """Question, answer (and another's answer to the same question), and what was right."""
    answers = [case] if beside is None else [case, beside]
    said = "".join(f"<p>{span(one.answer.text.strip() or '(nothing)', 'good' if (one.score or 0) >= 0.5 else 'bad')}</p>" for one in answers)
    wanted = " / ".join(dict.fromkeys(case.right)) or (f"{len(case.wanted_boxes)} boxes, drawn" if case.wanted_boxes else "")
    question = f"<p><b>{escape(case.question)}</b></p>" if case.question else ""
    return f"{question}{said}" + (f"<p>{span('right:', 'small')} {escape(_short(wanted))}</p>" if wanted else "")


def _short(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[:most]}.."


def seen(case: Case, truth: bool = True) -> Html:
    """The picture of a case with the boxes of the answer and, with `truth`, those that are right."""
    if not case.asked.pictures:
        return Html()
    source = case.asked.pictures[0]
    data = shown(source)
    drawn = picture(data, _media(data), alt=f"picture of {case.name}")
    outlines = "".join(_outline(box, "there") for box in case.wanted_boxes) if truth else ""
    outlines += "".join(_outline(box, "said") for box in case.found_boxes)
    over = f'<svg viewBox="0 0 {source.width} {source.height}" preserveAspectRatio="none">{outlines}</svg>' if outlines else ""
    return Html(f'<div class="seen">{drawn}{over}</div>')


def _outline(box: RotatedBox, kind: str) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners(box).tolist())
    return f'<polygon class="under" points="{points}"/><polygon class="{kind}" points="{points}"/>'


def _media(data: bytes) -> str:
    return "image/png" if data.startswith(b"\x89PNG") else "image/gif" if data.startswith(b"GIF8") else "image/webp" if data[8:12] == b"WEBP" else "image/jpeg"


def _near(near: Near) -> str:
    row = near.row
    small = picture(_thumbnail(near.picture), "image/jpeg", alt=f"row {row.row}") if near.picture is not None else ""
    alike = f"words {near.words:.2f}" + (f", looks {near.looks:.2f}" if near.looks is not None else "")
    place = span(f"{row.store}:{row.row} ({row.source}, {row.maker}); {alike}", "small")
    return f'<div class="near">{small}<div>{escape(_short(row.question, 120))} <b>{escape(_short(row.answer, 120))}</b><br>{place}</div></div>'


def _thumbnail(source: Picture) -> bytes:
    small = Image.fromarray(pixels(source))
    small.thumbnail((_SMALL, _SMALL))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return stream.getvalue()


def _compared(page: Page, found: Comparison) -> None:
    first, other = found.names
    styles = {"better": "good", "worse": "bad", "no clear difference": "small"}
    signed = lambda value: f"{100 * value:+.1f}"  # noqa: E731
    rows = [
        (
            f"{row.evaluation}: {row.kind}",
            _percent(row.first.value),
            _percent(row.other.value),
            signed(row.difference.value),
            f"{signed(row.difference.low)} to {signed(row.difference.high)}",
            span(row.verdict, styles[row.verdict]),
            f"{row.difference.n:,}",
        )
        for row in found.rows
    ]
    codes = [
        (
            one.title,
            Html(f"{_chip(one.state)}"),
            _percent(one.rate.value) if one.rate.n else "",
            Html(f"{_chip(two.state)}"),
            _percent(two.rate.value) if two.rate.n else "",
        )
        for one, two in found.failures.values()
        if (one.rate.n or two.rate.n) and (one.state != two.state or "found" in (one.state, two.state))
    ]
    note = f"Scores of the same questions, {first} minus {other}; {found.turned[0]:,} answers became better, {found.turned[1]:,} worse."
    if any(found.unpaired):
        note += f" Asked of one alone, and left out: {found.unpaired[0]:,} and {found.unpaired[1]:,}."
    page.section(f"Against {other}", table(("", first, other, "difference", "95 % interval", "", "n"), rows, numeric=(1, 2, 3, 4, 6)), note=note)
    if codes:
        page.add("<h3>Failures of both</h3>", table(("failure", first, "", other, ""), codes, numeric=(2, 4)))
    for title, pairs in ((f"{first} is better", found.gained), (f"{first} is worse", found.lost)):
        if pairs:
            page.add(
                f"<h3>{escape(title)}</h3>",
                paragraph(f"First the answer of {first}, then that of {other}.", "small"),
                _cards([f"{seen(a)}{told(a, b)}" for a, b in pairs]),
            )


def markdown(report: FailureReport) -> str:
    """The report as Markdown, without pictures."""
    found = report.found()
    lines = [f"# What goes wrong: {report.name}", "", f"{len(report.evidence.cases)} answers; found: {', '.join(one.code for one in found) or 'nothing'}.", ""]
    lines += ["| failure | state | rate | 95 % interval | limit | n |", "| --- | --- | --- | --- | --- | --- |"]
    for one in report.failures:
        figures = (_percent(one.rate.value), _interval(one.rate), _percent(one.limit), one.rate.n) if one.rate.n else ("", "", "", 0)
        lines.append(f"| `{one.code}` {one.title} | {_STATES[one.state][0]} | {' | '.join(map(str, figures))} |")
    for one in found:
        lines += ["", f"## {one.title}", "", f"`{one.code}`: {one.meaning} {one.note}".rstrip(), "", f"Look first: {one.fix}.", ""]
        lines += [
            f"- {name}: {_number(name, each.value)} ({_number(name, each.low)} to {_number(name, each.high)}, n = {each.n})"
            for name, each in one.figures.items()
        ]
        lines += ["", "| question | answer | right | |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {_cell(each.case.question)} | {_cell(each.case.answer.text)} | {_cell(' / '.join(each.case.right))} | {_cell(each.note)} |"
            for each in one.worst
        ]
    if report.comparison is not None:
        first, other = report.comparison.names
        lines += ["", f"## Against {other}", "", f"| | {first} | {other} | difference | |", "| --- | --- | --- | --- | --- |"]
        lines += [
            f"| {row.evaluation}: {row.kind} | {_percent(row.first.value)} | {_percent(row.other.value)} | {100 * row.difference.value:+.1f} ({_interval(row.difference)}) | {row.verdict} |"
            for row in report.comparison.rows
        ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return _short(" ".join(text.split()), 160).replace("|", "\\|")


def write(report: FailureReport, folder: Path) -> Path:
    """Write failures.html, failures.json and failures.md into a folder; returns the path of the page."""
    write_text(folder / "failures.json", json.dumps(report.record(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(folder / "failures.md", markdown(report))
    draw(report).write(folder / "failures.html")
    return folder / "failures.html"

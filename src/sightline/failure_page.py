"""The failure report as one self-contained page, as Markdown, and as JSON."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from sightline.evaluate.failures.comparison import Comparison
from sightline.evaluate.failures.evidence import Case
from sightline.evaluate.failures.finding import Failure, Shown, State
from sightline.evaluate.failures.hallucination import stated
from sightline.evaluate.metrics import Value
from sightline.evaluate.report import shown
from sightline.evaluate.yes_no import tolerant
from sightline.failure_report import FailureReport
from sightline.lineage import write_text
from sightline.page import Html, Page, bar, escape, listing, paragraph, picture, span, table
from sightline.samples.geometry import corners
from sightline.samples.pictures import media_type, rgb_pixels
from sightline.samples.sample import Picture, RotatedBox
from sightline.training_rows import Near

STYLE = """<style>
.seen { position: relative; margin-bottom: 8px; line-height: 0; } .seen img { display: block; width: 100%; border-radius: 4px; margin: 0 !important; image-rendering: auto; } .seen.grain img { image-rendering: pixelated; }
.seen svg { position: absolute; inset: 0; width: 100%; height: 100%; } .seen polygon, .key polyline { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
.seen .under { stroke: #000; stroke-opacity: .55; stroke-width: 4; } .there { stroke: #4be08a; } .said { stroke: #ff5d52; stroke-dasharray: 5 3; } .seen .meant { stroke-width: 4; } .seen .under.meant { stroke-width: 7; stroke-opacity: .75; }
.key { display: inline-block; vertical-align: middle; width: 26px; height: 10px; margin-right: 5px; border-radius: 2px; background: #50565e; } .key polyline { stroke-width: 3; }
.chip { display: inline-block; min-width: 7.2em; text-align: center; font-size: 12px; font-weight: 600; border-radius: 99px; padding: 1px 9px; border: 1px solid currentColor; white-space: nowrap; }
.code { font: 12px ui-monospace, monospace; color: var(--soft); overflow-wrap: anywhere; } details { margin: 8px 0; } summary { cursor: pointer; color: var(--soft); font-size: 14px; } details.clear { border-bottom: 1px solid var(--line); padding-bottom: 8px; }
.near { display: flex; gap: 8px; margin-top: 8px; font-size: 12.5px; line-height: 1.4; } .near img { width: 48px !important; height: 48px; object-fit: cover; flex: none; margin: 0 !important; }
.cards.four { grid-template-columns: repeat(auto-fill, minmax(min(100%, 235px), 1fr)); } .legend { font-size: 13px; color: var(--soft); } .legend span { margin-right: 14px; white-space: nowrap; }
.mark { color: var(--ink); font-weight: 600; } .more { line-height: 1.4; } td a { color: inherit; }
@media (max-width: 560px) { .chip { min-width: 0; } .overview td.w { white-space: normal; min-width: 7.5em; } .overview .bar { width: 62px; } .overview .code { display: none; } .overview td, .overview th { padding-right: 8px; } .legend span { white-space: normal; } }
</style>"""
_STATES: Mapping[State, tuple[str, str]] = {
    "found": ("found", "bad"),
    "unclear": ("unclear", "fair"),
    "clear": ("not found", "good"),
    "not measured": ("not measured", "small"),
}
_SMALL = 96
"""Side of the pictures of training rows, px."""
_COARSE = 200
"""Width of a picture, px, below which its pixels are drawn as squares."""
_SEVERAL = 4
"""Pictures of one question that are shown."""
_MARKDOWN = re.compile(r"[\\`*_\[\]<>|#~&$]")
_LONGEST = 600
"""Characters of a question or an answer that are shown."""
_RIGHT = 0.5
"""Score from which an answer is shown as a right one."""
_READING = (
    "A failure is found where the whole 95 % interval lies above its limit, the coloured mark; around the limit it is unclear: more answers would tell. "
    "Pictures are resampled, not questions, where several are about one picture."
)


def draw(report: FailureReport) -> Page:
    """The page of a report."""
    cases = report.evidence.cases
    refused = len(cases) - len(report.evidence.written)
    page = Page(
        f"What goes wrong: {report.name}",
        f"{len(cases):,} answers, {len({case.picture for case in cases if case.asked.pictures}):,} pictures"
        + (f", {refused:,} answers refused and looked at no further" if refused else "")
        + f". {_READING}",
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
        page.section("Not found", *(_clear(failure, report) for failure in clear))
    missing = [failure for failure in report.failures if failure.state == "not measured"]
    if missing:
        rows = [(Html(f"{escape(one.title)}<br>{_code(one)}"), Html(f'<div style="white-space:normal">{escape(one.note)}</div>')) for one in missing]
        page.section("Not measured", Html(f'<div class="overview">{table(("failure", "why"), rows)}</div>'))
    page.section("What was asked", _asked(cases))
    if report.left_out:
        page.section("Left out", listing(report.left_out))
    return page


def _clear(failure: Failure, report: FailureReport) -> Html:
    """A failure that was not found, folded; answers that show it all the same are in it."""
    shown = f"{_legend(failure)}{_cards(_card(one, report) for one in failure.worst)}" if failure.worst else ""
    head = f"{escape(failure.title)} {_code(failure)}: {_percent(failure.rate.value)} of {failure.rate.n:,}"
    told = paragraph(f"{_counted(failure.count)}{failure.meaning}")
    return Html(f'<details class="clear"><summary>{head}</summary>{told}{_note(failure)}{_figures(failure)}{shown}</details>')


def _asked(cases: Sequence[Case]) -> Html:
    """Every evaluation and kind of question with its answers, pictures and mean score."""
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.evaluation, case.kind), []).append(case)
    rows = []
    for (evaluation, kind), own in sorted(groups.items()):
        scores = [case.score for case in own if case.score is not None]
        pictures = len({case.picture for case in own if case.asked.pictures})
        rows.append((f"{evaluation}: {kind}", f"{len(own):,}", f"{pictures:,}", _percent(sum(scores) / len(scores)) if scores else ""))
    return table(("", "answers", "pictures", "mean score"), rows, numeric=(1, 2, 3))


def _counted(count: int) -> str:
    return f"{count:,} {'answer shows' if count == 1 else 'answers show'} it. " if count else ""


def _note(failure: Failure) -> Html:
    return paragraph(failure.note, "small") if failure.note else Html()


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
        rate = Html(f"<b>{_percent(one.rate.value)}</b>")
        rows.append((named, rate, _chip(one.state), drawn, _interval(one.rate), _percent(one.limit), f"{one.rate.n:,}"))
    head = ("failure", "rate", "", "rate, interval, limit", "95 % interval", "limit", "n")
    return Html(f'<div class="overview">{table(head, rows, numeric=(1, 4, 5, 6))}</div>')


def _linked(failure: Failure) -> Html:
    return Html(f'<a href="#{escape(_anchor(failure))}">{escape(failure.title)}</a>') if failure.state in ("found", "unclear") else Html(escape(failure.title))


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


def _number(failure: Failure, name: str, value: float) -> str:
    """A figure in its unit: a share in percent where it has none."""
    return f"{value:.3g} {failure.units[name]}".rstrip() if name in failure.units else _percent(value)


def _figure_interval(failure: Failure, name: str, value: Value) -> str:
    """The interval of a figure; the unit stands beside its value."""
    return f"{value.low:.3g} to {value.high:.3g}" if name in failure.units else _interval(value)


def _figures(failure: Failure) -> Html:
    rows = [(name, _number(failure, name, each.value), _figure_interval(failure, name, each), f"{each.n:,}") for name, each in failure.figures.items()]
    return table(("", "value", "95 % interval", "n"), rows, numeric=(1, 2, 3)) if rows else Html()


def _section(page: Page, failure: Failure, report: FailureReport) -> None:
    page.add(f'<div id="{escape(_anchor(failure))}"></div>')
    lead = Html(f"{_chip(failure.state)} {_code(failure)}")
    fix = Html(f"<p>{span('Look first:', 'mark')} {escape(failure.fix)}.</p>") if failure.fix else Html()
    page.section(failure.title, paragraph(lead), paragraph(f"{_counted(failure.count)}{failure.meaning}"), fix, _note(failure), _figures(failure))
    if failure.worst:
        page.add("<h3>The answers that show it best</h3>", _legend(failure), _cards(_card(one, report) for one in failure.worst))


def _legend(failure: Failure) -> Html:
    """What the lines on the pictures mean, where there are some."""
    if not any(one.case.wanted_boxes or one.case.found_boxes for one in failure.worst):
        return Html()
    line = '<svg class="key" viewBox="0 0 26 10"><polyline class="{}" points="2,5 24,5"/></svg>'
    told = [(line.format("there"), "what is there"), (line.format("said"), "what the answer says")]
    keys = "".join(f"<span>{key}{words}</span>" for key, words in told)
    return paragraph(Html(keys + ("<span>thick: what the line below is about</span>" if any(one.marked for one in failure.worst) else "")), "legend")


def _cards(blocks: Iterable[str]) -> Html:
    return Html('<div class="cards four">' + "".join(f'<div class="card">{block}</div>' for block in blocks) + "</div>")


def _card(one: Shown, report: FailureReport) -> str:
    case = one.case
    near = report.near.get((case.evaluation, case.name), ())
    rows = "".join(map(_near, near))
    training = f"<details><summary>training rows most like it</summary>{rows}</details>" if rows else ""
    return f"{seen(case, marked=one.marked)}{told(case)}{paragraph(one.note, 'small')}{paragraph(f'{case.evaluation}: {case.kind}, {case.name}', 'small')}{training}"


def told(case: Case, beside: Case | None = None) -> str:
    """Question, answer (and another's answer to the same question), and what was right."""
    answers = [case] if beside is None else [case, beside]
    said = "".join(f"<p>{span(_short(one.answer.text.strip(), _LONGEST) or '(nothing)', _standing(one))}</p>" for one in answers)
    boxes = len(case.wanted_boxes)
    drawn = f"{boxes} {'box' if boxes == 1 else 'boxes'}, drawn" if boxes else "no box" if case.asks_boxes else ""
    wanted = " / ".join(dict.fromkeys(case.right)) or drawn
    question = f"<p><b>{escape(_short(case.question, _LONGEST))}</b></p>" if case.question else ""
    return f"{question}{said}" + (f"<p>{span('right:', 'small')} {escape(_short(wanted))}</p>" if wanted else "")


def _standing(case: Case) -> str:
    """Colour of an answer: right, wrong, or none where nobody scored it, as with probes whose right answer is known."""
    if case.score is not None:
        return "good" if case.score >= _RIGHT else "bad"
    truth = stated(case)
    return "" if truth is None else "good" if tolerant(case.answer.text) == truth else "bad"


def _short(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[:most]}.."


def seen(case: Case, truth: bool = True, marked: Sequence[RotatedBox] = ()) -> Html:
    """The pictures of a case: on the first the boxes of the answer and, with `truth`, those that are right, `marked` ones thicker; the others plain, the first four."""
    parts = "".join(_seen(case, number, source, truth, marked) for number, source in enumerate(case.asked.pictures[:_SEVERAL]))
    more = len(case.asked.pictures) - _SEVERAL
    return Html(parts + (str(paragraph(f"and {more} more pictures", "small")) if more > 0 else ""))


def _seen(case: Case, number: int, source: Picture, truth: bool, marked: Sequence[RotatedBox]) -> str:
    data = shown(source)
    drawn = picture(data, media_type(data), alt=f"picture {number + 1} of {case.name}")
    there, said = (case.wanted_boxes if truth else (), case.found_boxes) if number == 0 else ((), ())
    outlines = "".join([*(_outline(box, "there", box in marked) for box in there), *(_outline(box, "said", box in marked) for box in said)])
    over = f'<svg viewBox="0 0 {source.width} {source.height}" preserveAspectRatio="none">{outlines}</svg>' if outlines else ""
    return f'<div class="seen{" grain" if source.width < _COARSE else ""}">{drawn}{over}</div>'


def _outline(box: RotatedBox, kind: str, meant: bool) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners(box).tolist())
    thick = " meant" if meant else ""
    return f'<polygon class="under{thick}" points="{points}"/><polygon class="{kind}{thick}" points="{points}"/>'


def _near(near: Near) -> str:
    row = near.row
    small = picture(_thumbnail(near.picture), "image/jpeg", alt=f"row {row.row}") if near.picture is not None else ""
    alike = f"words {near.words:.2f}" + (f", looks {near.looks:.2f}" if near.looks is not None else "")
    place = span(f"{row.store}:{row.row} ({row.source}, {row.maker}); {alike}", "small")
    return f'<div class="near">{small}<div>{escape(_short(row.question, 120))} <b>{escape(_short(row.answer, 120))}</b><br>{place}</div></div>'


def _thumbnail(source: Picture) -> bytes:
    small = Image.fromarray(rgb_pixels(source))
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
                _cards(f"{seen(a)}{told(a, b)}" for a, b in pairs),
            )


def markdown(report: FailureReport) -> str:
    """The report as Markdown, without pictures."""
    found = report.found()
    lines = [
        f"# What goes wrong: {_cell(report.name)}",
        "",
        f"{len(report.evidence.cases)} answers; found: {', '.join(one.code for one in found) or 'nothing'}.",
        "",
    ]
    lines += ["| failure | state | rate | 95 % interval | limit | n |", "| --- | --- | --- | --- | --- | --- |"]
    for one in report.failures:
        figures = (_percent(one.rate.value), _interval(one.rate), _percent(one.limit), one.rate.n) if one.rate.n else ("", "", "", 0)
        lines.append(f"| `{one.code}` {one.title} | {_STATES[one.state][0]} | {' | '.join(map(str, figures))} |")
    for one in found:
        lines += ["", f"## {one.title}", "", f"`{one.code}`: {_counted(one.count)}{one.meaning} {one.note}".rstrip(), "", f"Look first: {one.fix}.", ""]
        for name, each in one.figures.items():
            lines.append(f"- {_cell(name)}: {_number(one, name, each.value)} ({_figure_interval(one, name, each)}, n = {each.n})")
        lines += ["", "| question | answer | right | |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {_cell(each.case.question)} | {_cell(each.case.answer.text)} | {_cell(' / '.join(each.case.right))} | {_cell(each.note)} |"
            for each in one.worst
        ]
    if report.comparison is not None:
        first, other = report.comparison.names
        lines += ["", f"## Against {_cell(other)}", "", f"| | {_cell(first)} | {_cell(other)} | difference | |", "| --- | --- | --- | --- | --- |"]
        lines += [
            f"| {_cell(f'{row.evaluation}: {row.kind}')} | {_percent(row.first.value)} | {_percent(row.other.value)} | {100 * row.difference.value:+.1f} ({_interval(row.difference)}) | {row.verdict} |"
            for row in report.comparison.rows
        ]
    unmeasured = [one for one in report.failures if one.state == "not measured"]
    lines += ["", "## Not measured", "", *(f"- `{one.code}` {one.title}: {one.note}" for one in unmeasured)] if unmeasured else []
    lines += ["", "## Left out", "", *(f"- {_cell(line)}" for line in report.left_out)] if report.left_out else []
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text as Markdown says it, on one line: no mark of it is read as one."""
    return _MARKDOWN.sub(r"\\\g<0>", _short(" ".join(text.split()), 160))


def write(report: FailureReport, folder: Path) -> Path:
    """Write failures.html, failures.json and failures.md into a folder; returns the path of the page."""
    write_text(folder / "failures.json", json.dumps(report.record(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(folder / "failures.md", markdown(report))
    draw(report).write(folder / "failures.html")
    return folder / "failures.html"

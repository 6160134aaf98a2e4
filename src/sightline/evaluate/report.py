"""The report of a run: is it good, where does it fail, and against which controls; then the answers themselves, the training, and what it all was made from.

Everything is handed in as facts; nothing is measured here. `write_report` leaves `report.html` for people and `report.json` with the same numbers.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from sightline.evaluate.asking import Judged, Scores
from sightline.evaluate.metrics import Value, full_scale
from sightline.evaluate.run_facts import GAIN_HEAD, TRIED_HEAD, Example, Report, Row, ScoreTable, SoupFacts, Standing
from sightline.lineage import write_json
from sightline.page import Html, Page, bar, chart, columns, escape, listing, paragraph, picture, span, swatch, table, tiles
from sightline.progress import duration
from sightline.samples.exchange import Request
from sightline.samples.pictures import media_type, rgb_pixels
from sightline.samples.sample import Picture

_STYLES: Mapping[Standing, str] = {"above": "good", "unclear": "fair", "not above": "bad", "alone": "small"}
_WORDS: Mapping[Standing, str] = {"above": "above all", "unclear": "unclear", "not above": "not above", "alone": "no control"}
_SHOWN = ("image/png", "image/jpeg", "image/gif", "image/webp")
"""What every browser shows."""
_LARGEST = 120_000
"""Bytes of a picture that goes into the page as it is; a larger one is shown smaller."""
_SIDE = 480
_READING = paragraph(
    "Shares in percent. Above all: the 95 % interval lies above the interval of every control. Unclear: higher, but the intervals meet.", "small"
)


def worst_of(scores: Scores, count: int = 12) -> list[Judged]:
    """The answers that fail most: lowest score first, the surest first among equals, kinds in turn so that no kind fills the page."""
    failed = [row for row in scores.per_request if row.score < 1]
    return _in_turn(sorted(failed, key=lambda row: (row.score, -(row.probability or 0.0), row.request)), count)


def best_of(scores: Scores, count: int = 6) -> list[Judged]:
    """The answers that succeed best: highest score first, the longest first among equals (they could go wrong in most ways), kinds in turn."""
    succeeded = [row for row in scores.per_request if row.score > 0]
    return _in_turn(sorted(succeeded, key=lambda row: (-row.score, -len(row.given), row.request)), count)


def _in_turn(rows: Sequence[Judged], count: int) -> list[Judged]:
    turns: Counter[str] = Counter()
    placed: list[tuple[int, int, Judged]] = []
    for number, row in enumerate(rows):
        placed.append((turns[row.kind], number, row))
        turns[row.kind] += 1
    return [row for _, _, row in sorted(placed, key=lambda each: each[:2])[:count]]


def examples(rows: Iterable[Judged], requests: Iterable[Request], root: Path | None = None) -> list[Example]:
    """Judged answers with the picture and the prompt of their requests; `root` is the folder of the store when pictures are paths."""
    by_name = {request.sample.id: request.sample for request in requests}
    found: list[Example] = []
    for row in rows:
        sample = by_name[row.request]
        seen = shown(sample.pictures[0], root) if sample.pictures else None
        found.append(Example(picture=seen, prompt=sample.text(-1), judged=row))
    return found


def shown(source: Picture, root: Path | None = None) -> bytes:
    """Bytes that a browser can show: the picture's own when they are small and of a common format, else at most 480 px a side as JPEG."""
    if isinstance(source.data, bytes) and len(source.data) <= _LARGEST and media_type(source.data) in _SHOWN:
        return source.data
    small = Image.fromarray(rgb_pixels(source, root))
    small.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=88)
    return stream.getvalue()


def _number(name: str, value: float) -> str:
    return f"{value:.2f}" if full_scale(name) != 1 else f"{100 * value:.1f}"


def _interval(name: str, value: Value) -> str:
    return f"{_number(name, value.low)} to {_number(name, value.high)}"


def _against(row: Row) -> str:
    return f"best control: {row.best} {_number(row.name, row.controls[row.best].value)}" if row.best else "no control"


def _standing(row: Row) -> Html:
    return span(_WORDS[row.standing], _STYLES[row.standing])


def _verdict(report: Report) -> Html:
    rows = [row for each in report.tables for row in each.rows() if row.standing != "alone"]
    if not rows:
        return paragraph("Nothing was measured against a control: this page cannot say whether the model sees.", "verdict")
    above, failed = sum(row.standing == "above" for row in rows), sum(not gate.passed for gate in report.gates)
    text = span(f"{above} of {len(rows)} scores stand clearly above every control.", "good" if above == len(rows) else "fair" if above else "bad")
    gates = span(f" {failed} of {len(report.gates)} gates failed.", "bad") if failed else ""
    problems = span(f" Problems: {len(report.problems)}, listed below.", "bad") if report.problems else ""
    return paragraph(Html(text + gates + problems), "verdict")


def _failures(each: ScoreTable) -> Html:
    """Where it fails: what is not clearly above the controls, the lowest share, the commonest wrong answers."""
    rows = [row for row in each.rows() if row.name not in each.headline]
    named = lambda row: f"<b>{escape(row.name)}</b> {_number(row.name, row.value.value)}"  # noqa: E731
    doubt: Mapping[Standing, str] = {"unclear": "not clearly above", "not above": "not above"}
    lines = [
        Html(f"{named(row)}: {span(doubt[row.standing], _STYLES[row.standing])} {escape(row.best)} {_number(row.name, row.controls[row.best].value)}")
        for row in rows
        if row.standing in doubt
    ]
    if shares := [row for row in rows if full_scale(row.name) == 1]:
        low = min(shares, key=lambda row: row.value.value)
        lines.append(Html(f"lowest: {named(low)} ({_interval(low.name, low.value)}), {escape(_against(low))}"))
    wrong = Counter((row.kind, row.expected[0], row.given) for row in each.scores.per_request if row.score == 0)
    for (kind, expected, given), times in wrong.most_common(3):
        if times > 1:
            lines.append(Html(f"{times} times in <b>{escape(kind)}</b>: {escape(repr(expected))} was answered {escape(repr(given))}"))
    return listing(lines) if lines else Html()


def _score_table(each: ScoreTable) -> Html:
    names = list(each.controls)
    head = ["", "standing", "model and controls", "model", "95 % interval", *(swatch(i, name) for i, name in enumerate(names, 1)), "n"]
    body: list[list[object]] = []
    for row in each.rows():
        scale = full_scale(row.name)
        marks = [(name, row.controls[name].value / scale if name in row.controls else None) for name in names]
        drawn = bar(row.value.value / scale, row.value.low / scale, row.value.high / scale, marks, f"{row.name} {_number(row.name, row.value.value)}")
        controls = [_number(row.name, row.controls[name].value) if name in row.controls else "" for name in names]
        score = Html(f"<b>{_number(row.name, row.value.value)}</b>")
        body.append([row.name, _standing(row), drawn, score, _interval(row.name, row.value), *controls, row.value.n])
    return table(head, body, numeric=range(3, 6 + len(names)))


def _headlines(report: Report) -> Html:
    several = len(report.tables) > 1
    rows: list[tuple[object, object, object]] = []
    for each in report.tables:
        for row in each.rows():
            if row.name in each.headline:
                unit = "" if full_scale(row.name) != 1 else " %"
                beside = Html(f"{_interval(row.name, row.value)}<br>{escape(_against(row))}")
                rows.append(
                    (f"{each.name}: {row.name}" if several else row.name, span(_number(row.name, row.value.value) + unit, _STYLES[row.standing]), beside)
                )
    if report.seconds:
        rows.append(
            ("time", duration(sum(report.seconds.values())), Html(", ".join(f"{escape(name)} {duration(value)}" for name, value in report.seconds.items())))
        )
    return tiles(rows)


def _card(example: Example) -> str:
    row = example.judged
    seen = "" if example.picture is None else picture(example.picture, media_type(example.picture), alt=f"picture of {row.request}")
    wanted = row.expected[0] if len(row.expected) == 1 else Html("<br>".join(escape(text) for text in dict.fromkeys(row.expected)))
    sure = "" if row.probability is None else f", probability {row.probability:.2f}"
    given = span(row.given or "(nothing)", "good" if row.score >= 0.5 else "bad")
    ask = f"<p><b>{escape(example.prompt)}</b></p>" if example.prompt else ""
    return f"{seen}{ask}<p>{given}</p><p>{span('expected:', 'small')} {escape(wanted)}</p>{paragraph(f'{row.kind}, score {row.score:.2f}{sure}', 'small')}"


def _soup(page: Page, soup: SoupFacts) -> None:
    """Singles and soups, what they gain over each other, and what was tried on the way."""
    head, rows = soup.table()
    blocks = [paragraph(soup.stamp, "verdict")] if soup.stamp else []
    blocks.append(table(head, rows, numeric=range(2, len(head))))
    if soup.gains:
        blocks.append(table(GAIN_HEAD, soup.gain_rows(), numeric=(2,)))
    if soup.tried:
        blocks.append(table(TRIED_HEAD, soup.tried, numeric=(1,)))
    page.section(
        f"Soup: {soup.name}",
        *blocks,
        note="Single models and means of their weights, in percent with 95 % intervals; the order was found on what is selected on, all else chose nothing.",
    )


def _training(page: Page, report: Report) -> None:
    if report.stages:
        rows = [(stage.name, stage.objective, stage.steps, duration(stage.seconds), stage.note) for stage in report.stages]
        curves = columns(chart(stage.losses, f"{stage.name}: loss") for stage in report.stages)
        page.section("Training", table(("stage", "objective", "steps", "time", ""), rows, numeric=(2, 3)), curves)
    if report.parameters:
        stages = [stage.name for stage in report.stages]
        parts = [(part.path, f"{part.parameters:,}", *(part.trained.get(name, "frozen") for name in stages)) for part in report.parameters]
        total = ("all parts", f"{sum(part.parameters for part in report.parameters):,}", *("" for _ in stages))
        page.section("Parts", table(("part", "parameters", *stages), [*parts, total], numeric=(1,)), note="How each part was trained, by stage.")


def draw(report: Report) -> Page:
    """The page of a report."""
    page = Page(report.recipe, report.description)
    page.add(_verdict(report), _headlines(report), paragraph(", ".join(filter(None, (report.created, report.machine))), "small"))
    for each in report.tables:
        page.section(each.name, _failures(each), _score_table(each), _READING, note=each.note)
    for soup in report.soups:
        _soup(page, soup)
    if report.gates:
        rows = [
            (gate.name, f"{100 * gate.value:.1f}", f"{100 * gate.wanted:.1f}", span(*(("passed", "good") if gate.passed else ("failed", "bad"))), gate.meaning)
            for gate in report.gates
        ]
        page.section(
            "Gates",
            table(("", "reached", "wanted", "", ""), rows, numeric=(1, 2)),
            note="What had to be reached on the way: a kind that fails here will fail on pictures.",
        )
    if report.worst:
        page.section("Worst answers", page.cards(map(_card, report.worst)), note="Lowest scores, the surest first, kinds of question in turn.")
    if report.best:
        page.section("Best answers", page.cards(map(_card, report.best)))
    if report.problems:
        page.section("Problems", *(Html(f"<pre>{escape(problem)}</pre>") for problem in report.problems))
    _training(page, report)
    for each in report.tables:
        if each.scores.habits:
            kinds = {"model": each.scores, **each.controls}
            rows = [
                (name, *(_number(name, scores.habits[name].value) if name in scores.habits else "" for scores in kinds.values())) for name in each.scores.habits
            ]
            page.section(
                f"Habits: {each.name}",
                table(("", *kinds), rows, numeric=range(1, 1 + len(kinds))),
                note="How the answers look whatever was asked, in percent: repetition, the share of the commonest answer, answers cut off.",
            )
    if report.lineage:
        page.section("Made from", table(("", "id"), [(name, Html(f"<code>{escape(value)}</code>")) for name, value in report.lineage.items()]))
    if report.commands:
        page.section("Next", Html(f"<pre>{escape(chr(10).join(report.commands))}</pre>"))
    return page


def write_report(report: Report, folder: Path) -> Path:
    """Write `report.html`, self-contained, and `report.json` with the same numbers into `folder`; returns the path of the page."""
    write_json(folder / "report.json", report.record())
    path = folder / "report.html"
    draw(report).write(path)
    return path

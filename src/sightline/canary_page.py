"""The comparison of two models on the same traffic as one self-contained page, as Markdown, and as JSON."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sightline.canary import Canary, Pair, Verdict
from sightline.errors import Refused
from sightline.evaluate.metrics import Value
from sightline.evaluate.report import shown
from sightline.lineage import write_text
from sightline.page import Html, Page, escape, paragraph, picture, span, table, tiles
from sightline.samples.pictures import describe

SHOWN = 24
"""Differing answers that are shown."""
_STYLES: Mapping[Verdict | None, str] = {"no worse": "good", "unclear": "fair", "worse": "bad", None: "small"}
_SAID: Mapping[Verdict, str] = {
    "no worse": "The other is no worse than is allowed.",
    "worse": "The other is worse than is allowed.",
    "unclear": "It is unclear whether the other is worse: an interval reaches beyond what is allowed. More requests would tell.",
}
_READING = (
    "Differences are the other less the first, request by request, with 95 % intervals; requests about the same pictures are resampled together. "
    "A measure decides where something is allowed for it: no worse where the whole interval lies above that, worse where it lies below."
)
_MARKDOWN = re.compile(r"[\\`*_\[\]<>|#~&$]")
_LONGEST = 300


def write(canary: Canary, folder: Path) -> Path:
    """Write canary.html, canary.json and canary.md into a folder; returns the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "canary.json", json.dumps(canary.record(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(folder / "canary.md", markdown(canary))
    draw(canary).write(folder / "canary.html")
    return folder / "canary.html"


def rows(canary: Canary) -> list[tuple[str, str, str, str, str, str, Verdict | None]]:
    """Name, both values, difference, its interval, what is allowed, verdict; of each measure and of time."""
    found: list[tuple[str, str, str, str, str, str, Verdict | None]] = []
    for one in canary.measures:
        allowed = "" if one.worse is None else f"{-100 * one.worse:.1f}"
        values = (f"{100 * one.first.value:.1f}", f"{100 * one.other.value:.1f}", f"{100 * one.difference.value:+.1f}")
        found.append((f"{one.name}, % (n = {one.difference.n})", *values, _interval(one.difference, 100), allowed, one.verdict))
    if canary.speed is not None:
        said = canary.speed
        values = (f"{said.first.value:.3f}", f"{said.other.value:.3f}", f"x {said.ratio.value:.2f}")
        found.append(("mean time of an answer, s", *values, _interval(said.ratio, 1), "" if said.slower is None else f"x {said.slower:.2f}", said.verdict))
        found.append(("95 % of the answers within, s", f"{said.tails[0]:.3f}", f"{said.tails[1]:.3f}", "", "", "", None))
    return found


def _interval(value: Value, scale: float) -> str:
    signed = "+" if scale != 1 else ""
    digits = 1 if scale != 1 else 2
    return f"{scale * value.low:{signed}.{digits}f} to {scale * value.high:{signed}.{digits}f}"


def telling(canary: Canary) -> list[Pair]:
    """Pairs that differ, those first where the other loses most, then those that failed."""
    loss = lambda pair: pair.scores()[0] - pair.scores()[1] if pair.asked.known else 0.0  # noqa: E731
    return sorted((pair for pair in canary.pairs if pair.outcome != "equal"), key=lambda pair: (-loss(pair), pair.outcome != "failed", pair.asked.name))


def markdown(canary: Canary) -> str:
    """The report for a merge request or a chat."""
    first, other = (_cell(name) for name in canary.names)
    counts = canary.outcomes
    lines = [f"# Canary: {other} against {first}", "", f"**{canary.verdict}.** {_SAID[canary.verdict]}", ""]
    lines += [f"{len(canary.pairs):,} requests: {counts['equal']:,} answered alike, {counts['differ']:,} differently, {counts['failed']:,} not by both.", ""]
    lines += ["| | first | other | difference | 95 % interval | allowed | |", "| --- | --- | --- | --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(row[:-1])} | {row[-1] or ''} |" for row in rows(canary)]
    lines += ["", _READING]
    found = telling(canary)
    if found:
        lines += ["", "## Answers that differ", "", "| request | question | first | other | right |", "| --- | --- | --- | --- | --- |"]
        lines += [f"| {' | '.join(map(_cell, _told(pair)))} |" for pair in found[:SHOWN]]
        lines += ["", f"and {len(found) - SHOWN:,} more in canary.json"] if len(found) > SHOWN else []
    return "\n".join(lines) + "\n"


def _told(pair: Pair) -> tuple[str, str, str, str, str]:
    sides = [" / ".join(reply.texts) if reply.answered else reply.error for reply in (pair.first, pair.other)]
    return pair.asked.name, pair.asked.question, sides[0], sides[1], " / ".join(pair.asked.right)


def _cell(text: str) -> str:
    """Text as Markdown says it, on one line: no mark of it is read as one."""
    return _MARKDOWN.sub(r"\\\g<0>", _short(" ".join(text.split())))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}.."


def draw(canary: Canary) -> Page:
    """The page."""
    counts = canary.outcomes
    page = Page(f"Canary: {canary.names[1]}", f"Against {canary.names[0]}, on {len(canary.pairs):,} requests.")
    page.add(paragraph(Html(f"{span(canary.verdict, _STYLES[canary.verdict])}. {escape(_SAID[canary.verdict])}"), "verdict"))
    page.add(
        tiles([("answered alike", f"{counts['equal']:,}", ""), ("differently", f"{counts['differ']:,}", ""), ("not by both", f"{counts['failed']:,}", "")])
    )
    head = ("", "first", "other", "difference", "95 % interval", "allowed", "")
    page.section("What decides", table(head, _cells(canary), numeric=(1, 2, 3, 4, 5)), note=_READING)
    found = telling(canary)
    if found:
        more = f"{len(found):,} of them; the first {SHOWN} are shown, all are in canary.json." if len(found) > SHOWN else ""
        page.section("Answers that differ", page.cards(map(_card, found[:SHOWN])), note=more)
    return page


def _cells(canary: Canary) -> list[Sequence[object]]:
    return [(*row[:-1], span(row[-1], _STYLES[row[-1]]) if row[-1] else "") for row in rows(canary)]


def _card(pair: Pair) -> str:
    name, question, first, other, right = _told(pair)
    told = [paragraph(_short(question)), paragraph(Html(f"{span('first', 'small')} {escape(_short(first))}"))]
    told.append(paragraph(Html(f"{span('other', 'small')} {escape(_short(other))}")))
    told += [paragraph(Html(f"{span('right', 'small')} {escape(_short(right))}"))] if right else []
    return f"{_first_picture(pair)}{''.join(told)}{paragraph(name, 'small')}"


def _first_picture(pair: Pair) -> str:
    """The first picture that is inside the request; what cannot be read is said instead."""
    url = next((part["image_url"]["url"] for part in pair.asked.parts if part.get("type") == "image_url"), "")
    if not url.startswith("data:"):
        return ""
    try:
        data = shown(describe(base64.b64decode(url.partition(",")[2], validate=True), "", pair.asked.name))
    except (Refused, binascii.Error, ValueError) as error:
        return paragraph(f"a picture that cannot be shown: {type(error).__name__}", "small")
    return picture(data, _media(data), "the picture that was asked about")


def _media(data: bytes) -> str:
    return (
        "image/png" if data.startswith(b"\x89PNG") else "image/webp" if data.startswith(b"RIFF") else "image/gif" if data.startswith(b"GIF8") else "image/jpeg"
    )

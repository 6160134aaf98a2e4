"""A page on one score of a store: its histogram, and the lowest and highest rows side by side with pictures and texts, so that a threshold is chosen by looking."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sightline.data.questions import captions_in
from sightline.errors import Problem, Refused
from sightline.page import Html, Page, columns, escape, listing, paragraph, picture, span, tiles
from sightline.samples.pictures import rgb_pixels
from sightline.samples.store import Store

_SIDE = 240
"""Longest side of a picture on the page, px."""
_BINS = 40
_TEXT = 280
"""Longest text of a card, in characters."""
_LISTED = 50
"""Rows without a score that are named."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    number: int
    id: str
    score: float
    kept: bool


def write_score_page(store: Store, score: str, page: Path, *, missing: Sequence[tuple[str, str]] = (), share: float = 0.2, shown: int = 12) -> None:
    """Write the page. Of the lowest and of the highest `share` of the rows, `shown` are drawn evenly, the extreme ones among them; `missing`: (id, why) of rows without a score.

    Raises Refused when no row has a finite score.
    """
    rows = _scored(store, score)
    if not rows:
        known = sorted({name for each in store.index["scores"].to_pylist() for name, _ in each or ()})
        raise Refused(
            Problem(
                code="data/no-score",
                place=str(store.path),
                found=f"no row with a finite {score}",
                allowed=", ".join(known) or "a score of the rows, which carry none",
                fix="score the rows first: sightline data score",
            )
        )
    values = [row.score for row in rows]
    count = max(1, int(len(rows) * share))
    made = Page(
        f"{score} of {store.path.name}", f"{len(rows)} rows with a score. Pictures and texts of the lowest and the highest {share:.0%}, the extreme ones first."
    )
    marks = {f"lowest {share:.0%}": values[count - 1], f"highest {share:.0%}": values[-count]}
    made.add(
        tiles(
            [
                ("median", f"{np.median(values):.4g}", f"mean {np.mean(values):.4g}"),
                *((name, f"{value:.4g}", "bound") for name, value in marks.items()),
                _kept(rows),
            ]
        )
    )
    made.section("How it is spread", _histogram(values, score, marks))
    ends = {
        f"Lowest {share:.0%}: {values[0]:.4g} to {values[count - 1]:.4g}": rows[:count],
        f"Highest {share:.0%}: {values[-1]:.4g} to {values[-count]:.4g}": rows[::-1][:count],
    }
    made.section(
        "Lowest and highest",
        columns(f"<h3>{escape(title)}</h3>{made.cards([_card(store, row) for row in _evenly(end, shown)])}" for title, end in ends.items()),
    )
    if missing:
        more = [f"and {len(missing) - _LISTED} more"] if len(missing) > _LISTED else []
        made.section(f"{len(missing)} rows without a score", listing([*(f"{name}: {why}" for name, why in missing[:_LISTED]), *more]))
    made.write(page)


def _scored(store: Store, score: str) -> list[_Row]:
    """Rows with a finite score, the lowest first, equal ones by id."""
    known = zip(*(store.index[name].to_pylist() for name in ("row", "id", "scores", "verdict")), strict=True)
    found = [_Row(number=number, id=name, score=dict(scores or ()).get(score, math.nan), kept=verdict == "kept") for number, name, scores, verdict in known]
    return sorted((row for row in found if math.isfinite(row.score)), key=lambda row: (row.score, row.id))


def _kept(rows: Sequence[_Row]) -> tuple[str, str, str]:
    kept = sum(row.kept for row in rows)
    return "kept", f"{kept}", f"{kept / len(rows):.0%} of the rows with a score"


def _evenly(rows: Sequence[_Row], count: int) -> list[_Row]:
    places = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    return [rows[place] for place in places]


def _card(store: Store, row: _Row) -> str:
    sample = store[row.number]
    shown = picture(_thumbnail(rgb_pixels(sample.pictures[0], store.path)), "image/jpeg", alt=f"picture of {row.id}") if sample.pictures else ""
    texts = " / ".join(captions_in(sample))
    cut = texts if len(texts) <= _TEXT else texts[: _TEXT - 3] + "..."
    verdict = "" if row.kept else span(" set aside", "small")
    return f"{shown}<p><b>{row.score:.4g}</b>{verdict}</p>{paragraph(cut)}{paragraph(row.id, 'small')}"


def _thumbnail(array: np.ndarray) -> bytes:
    small = Image.fromarray(array)
    small.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def _histogram(values: Sequence[float], title: str, marks: dict[str, float], width: int = 900, height: int = 220) -> Html:
    """Bars of equal width, on a logarithmic axis where the values are positive and span more than a factor of 50."""
    logarithmic = values[0] > 0 and values[-1] > 50 * values[0]
    scale = math.log10 if logarithmic else float
    counts, edges = np.histogram([scale(value) for value in values], bins=_BINS)
    left, right, top, bottom = 46, 12, 40, 36
    px = lambda x: left + (x - edges[0]) / (edges[-1] - edges[0]) * (width - left - right)  # noqa: E731
    py = lambda y: height - bottom - y / counts.max() * (height - top - bottom)  # noqa: E731
    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{escape(title)}"><text class="title" x="{left}" y="13">rows by {escape(title)}</text>'
    ]
    for number in range(5):
        x, y = edges[0] + (edges[-1] - edges[0]) * number / 4, counts.max() * number / 4
        said = 10**x if logarithmic else x
        parts.append(
            f'<line class="axis" x1="{left}" x2="{width - right}" y1="{py(y):.1f}" y2="{py(y):.1f}"/><text x="{left - 6}" y="{py(y) + 4:.1f}" text-anchor="end">{y:.4g}</text>'
        )
        parts.append(f'<text x="{px(x):.1f}" y="{height - 19}" text-anchor="{"end" if number == 4 else "middle"}">{said:.4g}</text>')
    for count, low, high in zip(counts, edges, edges[1:]):
        parts.append(
            f'<rect style="fill:var(--c0)" x="{px(low):.1f}" y="{py(count):.1f}" width="{max(1.0, px(high) - px(low) - 1):.1f}" height="{py(0) - py(count):.1f}"/>'
        )
    for (name, value), anchor in zip(marks.items(), ("start", "end")):
        x = px(scale(value))
        shift = 4 if anchor == "start" else -4
        parts.append(f'<line style="stroke:var(--c1);stroke-dasharray:4 3" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 10}" y2="{height - bottom}"/>')
        parts.append(f'<text x="{x + shift:.1f}" y="{top - 12}" text-anchor="{anchor}">{escape(name)}</text>')
    parts.append(f'<text x="{(width + left) / 2}" y="{height - 4}" text-anchor="middle">{escape(title)}{", logarithmic" if logarithmic else ""}</text></svg>')
    return Html("".join(parts))

"""The page of a check: one self-contained HTML file with what was found, rule by rule, with pictures."""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from sightline.data.check.checking import EXAMPLES, Checked
from sightline.data.check.label_rules import frequent_words
from sightline.data.check.region_rules import extent
from sightline.data.check.row_facts import Finding, RowFacts, regions_of
from sightline.data.check.rules import RULES
from sightline.data.check.survey import shortened
from sightline.data.check.text_rules import length
from sightline.errors import Refused
from sightline.page import Html, Page, bar, columns, escape, paragraph, picture, span, table, tiles
from sightline.samples.drawing import draw_regions
from sightline.samples.pictures import rgb_pixels
from sightline.samples.sample import Region, Sample

_SIDE = 360
"""Longest side of a picture on the page, px."""
_DRAWN = 60
"""Regions of a picture that are drawn when a finding names none of them."""
_STYLES = {"refuse": "bad", "warn": "fair"}
_MAKEUP = ("modality", "languages", "splits", "makers", "licences")


def write_page(checked: Checked, path: Path) -> None:
    """Write the page atomically."""
    page = Page(f"Check of {', '.join(checked.survey.names)}", _lead(checked))
    page.add(_verdict(checked), tiles(_numbers(checked)))
    page.section(
        "Rules that speak", _overview(checked), note="Each is shown below with up to 12 examples. Thresholds are fields of CheckConfig: --set FIELD=VALUE."
    )
    page.section("What it is made of", columns(_makeup(checked)))
    page.section("Names by frequency", _frequencies(checked.survey.read), note="Labels; where there are none, words of the answers.")
    page.section("Lengths", columns(_lengths(checked.survey.read)))
    for code, found in checked.by_rule.items():
        page.section(code, _said(checked, code), *_examples(checked, page, found))
    page.write(path)


def _lead(checked: Checked) -> str:
    roles = {"own": "", "generic": " (generic)", "against": " (benchmark)"}
    return "; ".join(f"{name}: {one.format}{roles[one.role]}" for name, one in zip(checked.survey.names, checked.sets, strict=True))


def _verdict(checked: Checked) -> Html:
    grave = [code for code in checked.by_rule if checked.severity(code) == "refuse"]
    if grave:
        return paragraph(Html(span(f"{len(grave)} of {len(checked.by_rule)} rules that speak are grave: {', '.join(grave)}.", "bad")), "verdict")
    return paragraph(Html(span(f"Nothing grave. {len(checked.by_rule)} rules have something to say.", "good")), "verdict")


def _numbers(checked: Checked) -> Iterator[tuple[object, object, object]]:
    counts, makeup = checked.counts, checked.makeup
    yield "rows", f"{counts['rows']:,}", "clean + flagged + refused"
    for name, beside in (("clean", "nothing found"), ("flagged", "named by a finding"), ("refused", "could not be read")):
        share = counts[name] / counts["rows"] if counts["rows"] else 0.0
        yield name, f"{counts[name]:,}", f"{100 * share:.1f} %, {beside}"
    yield "pictures", f"{makeup['pictures']:,}", "different files"
    yield "texts", f"{makeup['texts']:,}", f"and {makeup['regions']:,} regions"


def _overview(checked: Checked) -> Html:
    rows = []
    for code, found in checked.by_rule.items():
        grade, concerned = checked.severity(code), len({finding.row for finding in found if finding.row is not None})
        share = concerned / max(1, checked.counts["rows"])
        where = bar(share, 0, 0, (), f"{concerned} rows") if concerned else span("whole source", "small")
        rows.append((code, span(grade, _STYLES[grade]), concerned or "", where, RULES[code].what, _marked(RULES[code].fix)))
    return table(("rule", "", "rows", "share", "what", "how it is mended"), rows, numeric=(2,)) if rows else paragraph("No rule has anything to say.")


def _makeup(checked: Checked) -> Iterator[Html]:
    for name in _MAKEUP:
        counts: Mapping[str, int] = checked.makeup[name]
        total = sum(counts.values())
        rows = [(value, count, bar(count / total, 0, 0, (), str(count))) for value, count in list(counts.items())[:12]]
        if rows:
            yield Html(f"<h3>{escape(name)}</h3>{table(('', '', ''), rows, numeric=(1,))}")


def _frequencies(rows: Sequence[RowFacts]) -> Html:
    found = frequent_words(rows)
    if not found:
        return paragraph("No label and no text.", "small")
    most = found[0][1]
    half = -(-len(found) // 2)
    parts = [
        table(("name", "", ""), [(name, count, bar(count / most, 0, 0, (), str(count))) for name, count in part], numeric=(1,))
        for part in (found[:half], found[half:])
        if part
    ]
    return columns(parts)


def _lengths(rows: Sequence[RowFacts]) -> Iterator[Html]:
    """Histograms of words, tokens and regions."""
    kinds = {
        "words of a caption": [length(text) for row in rows for text in row.captions],
        "words of a question": [length(one.question) for row in rows for one in row.exchanges if one.question.strip()],
        "words of an answer": [length(one.answers[0]) for row in rows for one in row.exchanges if one.question.strip()],
        "tokens of a row": [float(row.tokens) for row in rows if row.tokens is not None],
        "regions of a row": [float(len(row.labels)) for row in rows if row.labels],
    }
    for name, values in kinds.items():
        if values:
            yield histogram(values, f"{name}: median {np.median(values):.3g}, most {max(values):.4g}", name.partition(" ")[0])


def histogram(values: Sequence[float], title: str, label: str, width: int = 500, height: int = 190) -> Html:
    """Bars as SVG: how often which value; the hundredth above the 99th percentile is in the last bar."""
    top = max(1.0, float(np.quantile(values, 0.99)))
    counts, edges = np.histogram(np.minimum(values, top), bins=min(24, int(np.ceil(top)) + 1), range=(0.0, top + 1))
    left, bottom, upper = 46, 36, 24
    step, scale = (width - left - 12) / len(counts), (height - upper - bottom) / max(1, counts.max())
    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{escape(title)}"><text class="title" x="0" y="13">{escape(title)}</text>'
    ]
    for number, count in enumerate(counts.tolist()):
        x, tall = left + number * step, count * scale
        parts.append(
            f'<rect x="{x + 0.5:.1f}" y="{height - bottom - tall:.1f}" width="{step - 1:.1f}" height="{tall:.1f}" style="fill:var(--c0);opacity:.65"><title>{edges[number]:g} to {edges[number + 1]:g}: {count}</title></rect>'
        )
    parts.append(f'<line class="axis" x1="{left}" x2="{width - 12}" y1="{height - bottom}" y2="{height - bottom}"/>')
    parts.append(
        f'<text x="{left - 6}" y="{upper + 8}" text-anchor="end">{counts.max()}</text><text x="{left - 6}" y="{height - bottom + 4}" text-anchor="end">0</text>'
    )
    for number in range(5):
        anchor = "end" if number == 4 else "middle"
        parts.append(f'<text x="{left + (width - left - 12) * number / 4:.1f}" y="{height - 19}" text-anchor="{anchor}">{(top + 1) * number / 4:.3g}</text>')
    parts.append(f'<text x="{(width + left) / 2}" y="{height - 4}" text-anchor="middle">{escape(label)}</text></svg>')
    return Html("".join(parts))


def _said(checked: Checked, code: str) -> Html:
    grade = checked.severity(code)
    return paragraph(Html(f"{span(grade, _STYLES[grade])} {escape(RULES[code].what)}. <b>Mend:</b> {_marked(RULES[code].fix)}."))


def _marked(text: str) -> Html:
    """Words between backticks as code."""
    return Html(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)))


def _examples(checked: Checked, page: Page, found: Sequence[Finding]) -> Iterator[Html]:
    whole = [finding for finding in found if finding.row is None]
    if whole:
        yield table(("source", "found"), [(finding.source or "all", finding.found) for finding in whole[:EXAMPLES]])
    single = [finding for finding in found if finding.row is not None]
    sources = Counter(checked.survey.source(checked.survey.rows[finding.row]) for finding in single if finding.row is not None)
    if len(sources) > 1:
        yield table(("source", "findings"), list(sources.most_common()), numeric=(1,))
    if single:
        yield page.cards(_card(checked, finding) for finding in _spread(checked, single))
        if len(single) > EXAMPLES:
            yield paragraph(f"Of {len(single):,} findings, up to {EXAMPLES} about different pictures, spread over the set.", "small")


def _spread(checked: Checked, found: Sequence[Finding]) -> list[Finding]:
    """At most twelve, evenly from first to last, so that one bad stretch does not fill the page; of several about one picture the first, while there are others."""
    first: dict[str, Finding] = {}
    for finding in found:
        row = checked.survey.rows[finding.row or 0]
        first.setdefault(row.pictures[finding.picture].hash if row.pictures else row.place, finding)
    chosen = list(first.values())
    places = np.unique(np.linspace(0, len(chosen) - 1, EXAMPLES).round().astype(int))
    return [chosen[place] for place in places.tolist()]


def _card(checked: Checked, finding: Finding) -> str:
    assert finding.row is not None, "a card is about a row"
    row = checked.survey.rows[finding.row]
    seen = [] if row.refused else [_thumbnail(checked, row, finding.picture, finding.regions)]
    if finding.other is not None and (other := checked.survey.rows[finding.other]).pictures:
        seen.append(_thumbnail(checked, other, 0, ()))
    texts = [shortened(f"{one.question} {one.answers[0]}", 140) for one in row.exchanges[:2]]
    place = row.place.replace("\\", "/").rsplit("/", 1)[-1]
    lines = [
        f"<p>{escape(shortened(finding.found, 220))}</p>",
        *(f"<p class=small>{escape(text)}</p>" for text in texts),
        f"<p class=small><code>{escape(place)}</code></p>",
    ]
    return "".join((*seen, *lines))


def _thumbnail(checked: Checked, row: RowFacts, number: int, regions: Sequence[int]) -> str:
    """The picture of a row with the regions concerned, cut to their surroundings where the picture is large."""
    if not row.pictures:
        return ""
    one = checked.sets[row.data_set]
    try:
        sample = one.sample(row)
        shown = rgb_pixels(sample.pictures[number], one.path)
    except Refused:  # the file has gone since it was checked
        return str(paragraph("no longer there", "small"))
    drawn, window = _drawn(sample, number, regions), None
    if regions and max(shown.shape[:2]) > 2 * _SIDE:
        window = _window(shown, drawn)
    picture_ = draw_regions(shown, drawn) if drawn else shown
    small = Image.fromarray(picture_ if window is None else picture_[window[1] : window[3], window[0] : window[2]])
    small.thumbnail((_SIDE, _SIDE))
    # A tall picture would make its whole row of cards tall
    mounted = ImageOps.pad(small, (max(small.width, small.height), small.height), color=(127, 127, 127))
    stream = io.BytesIO()
    mounted.save(stream, "JPEG", quality=82)
    return str(picture(stream.getvalue(), "image/jpeg", alt=row.id))


def _drawn(sample: Sample, number: int, regions: Sequence[int]) -> list[Region]:
    every = regions_of(sample)
    chosen = [every[place] for place in regions if place < len(every)] or (every if len(every) <= _DRAWN else [])
    return [region for region in chosen if region.picture == number]


def _window(shown: np.ndarray, drawn: Sequence[Region]) -> tuple[int, int, int, int] | None:
    """A square of the picture around its first region."""

    corners = next((found for region in drawn if (found := extent(region.shape)) is not None and all(map(math.isfinite, found))), None)
    if corners is None:
        return None
    left, top, right, bottom = corners
    height, width = shown.shape[:2]
    side = int(max(_SIDE, 2 * (right - left), 2 * (bottom - top)))
    x, y = (int(np.clip(middle - side / 2, 0, max(0, limit - side))) for middle, limit in (((left + right) / 2, width), ((top + bottom) / 2, height)))
    return x, y, min(width, x + side), min(height, y + side)

"""Self-contained HTML pages: tables, pictures as data URLs, bars and line charts. Light and dark, wide and narrow. No script, no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sightline.lineage import write_text

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5d656e; --line: #dde1e6; --back: #ffffff; --card: #f6f7f9; --accent: #0b6bcb; --good: #1a7f4b; --fair: #9a6200; --bad: #c1382e;
  --c0: #0b6bcb; --c1: #d9822b; --c2: #1a7f4b; --c3: #8f4bd1; --c4: #c1382e; --c5: #1598a6; --c6: #7a6a00; --c7: #b2427f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa2ab; --line: #343a41; --back: #14171a; --card: #1d2125; --accent: #6cb2ff; --good: #57c58a; --fair: #e0ab4d; --bad: #ff8077;
  --c0: #6cb2ff; --c1: #f0a35c; --c2: #57c58a; --c3: #bb8cf0; --c4: #ff8077; --c5: #4ec9d6; --c6: #cdbb3f; --c7: #ea85b6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 24px 16px 64px; font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); }
h1 { font-size: 26px; line-height: 1.25; margin: 8px 0 4px; } h2 { font-size: 19px; margin: 40px 0 10px; border-bottom: 1px solid var(--line); padding-bottom: 4px; } h3 { font-size: 15px; margin: 20px 0 6px; }
p { margin: 0 0 10px; } p.lead { color: var(--soft); max-width: 75ch; } p.verdict { font-size: 17px; max-width: 75ch; margin: 14px 0; } ul { margin: 0 0 12px; padding-left: 20px; }
.scroll { overflow-x: auto; margin-bottom: 12px; } table { border-collapse: collapse; font-size: 14px; } th, td { padding: 5px 14px 5px 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.w { white-space: nowrap; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 14px 0; } .tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.tile b { display: block; font-size: 28px; line-height: 1.2; font-weight: 650; font-variant-numeric: tabular-nums; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 12px; margin: 12px 0; } .card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px; overflow-wrap: anywhere; }
.card img { display: block; width: 100%; image-rendering: pixelated; border-radius: 4px; margin-bottom: 8px; } .card p { margin: 0 0 4px; }
.columns { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); gap: 16px; }
.small { font-size: 13px; color: var(--soft); } .good { color: var(--good); } .fair { color: var(--fair); } .bad { color: var(--bad); } td .good, td .fair, td .bad, td .small { white-space: nowrap; } .swatch { display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 5px; }
.bar { position: relative; width: 160px; height: 14px; margin-top: 3px; border-radius: 3px; background: color-mix(in srgb, var(--line) 60%, transparent); } .bar span { position: absolute; top: 0; bottom: 0; }
.bar .fill { left: 0; border-radius: 3px; background: color-mix(in srgb, var(--c0) 55%, transparent); } .bar .range { top: 6px; bottom: 6px; background: var(--ink); } .bar .mark { width: 3px; margin-left: -1px; border-radius: 1px; }
.tok { white-space: pre-wrap; border-radius: 3px; padding: 1px 0; } .answer { background: color-mix(in srgb, var(--good) 28%, transparent); } .slot { background: color-mix(in srgb, var(--accent) 25%, transparent); } .control { color: var(--soft); }
svg { max-width: 100%; height: auto; } svg text { fill: var(--soft); font: 11px system-ui, sans-serif; } svg text.title { font-weight: 600; fill: var(--ink); } svg .axis { stroke: var(--line); } svg polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
code { background: var(--card); padding: 1px 4px; border-radius: 4px; overflow-wrap: anywhere; } pre { background: var(--card); padding: 10px; border-radius: 8px; overflow-x: auto; font-size: 13px; }
@media (max-width: 560px) { .cards { grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); } .tile b { font-size: 23px; } .bar { width: 84px; } th, td { padding-right: 10px; } }
"""
COLOURS = tuple(f"var(--c{i})" for i in range(8))
"""For curves and marks, in this order; each has a light and a dark value."""


class Html(str):
    """Text that is HTML already: `escape` leaves it alone."""


def escape(text: object) -> str:
    """Text made safe for HTML."""
    return text if isinstance(text, Html) else html.escape(str(text), quote=True)


def span(text: object, kind: str) -> Html:
    """Text in one of the page's styles: `good`, `fair`, `bad`, `small`."""
    return Html(f'<span class="{escape(kind)}">{escape(text)}</span>')


def paragraph(text: object, kind: str = "") -> Html:
    """A paragraph, plain or in one of the page's styles: `lead`, `small`, `verdict`."""
    return Html(f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>")


def listing(lines: Iterable[object]) -> Html:
    """A list with one point per line."""
    return Html("<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>")


def picture(data: bytes, media: str = "image/png", alt: str = "", width: int | None = None) -> Html:
    """An `<img>` with its bytes inside."""
    size = f' style="width:{width}px"' if width else ""
    return Html(f'<img alt="{escape(alt)}"{size} src="data:{escape(media)};base64,{base64.b64encode(data).decode()}">')


def swatch(colour: int, text: object) -> Html:
    """Text with the patch of colour that marks it elsewhere."""
    return Html(f'<span class="swatch" style="background:{COLOURS[colour % len(COLOURS)]}"></span>{escape(text)}')


def table(head: Sequence[object], rows: Iterable[Sequence[object]], numeric: Sequence[int] = ()) -> Html:
    """A table of escaped cells; columns in `numeric` are right-aligned, the first column is never broken into lines."""

    def cells(tag: str, row: Sequence[object]) -> str:
        return "".join(f"<{tag}{' class=n' if i in numeric else ' class=w' if i == 0 else ''}>{escape(cell)}</{tag}>" for i, cell in enumerate(row))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return Html(f'<div class="scroll"><table><thead><tr>{cells("th", head)}</tr></thead><tbody>{body}</tbody></table></div>')


def bar(value: float, low: float, high: float, marks: Sequence[tuple[str, float | None]], label: str) -> Html:
    """A bar for a share 0..1 with its interval as a line, and other shares as marks in the colours from the second on; None leaves a mark, not its colour, out."""
    percent = lambda share: f"{100 * min(1.0, max(0.0, share)):.1f}%"  # noqa: E731
    others = "".join(
        f'<span class="mark" title="{escape(name)}" style="left:{percent(share)};background:{COLOURS[i % len(COLOURS)]}"></span>'
        for i, (name, share) in enumerate(marks, 1)
        if share is not None
    )
    inside = f'<span class="fill" style="width:{percent(value)}"></span><span class="range" style="left:{percent(low)};width:{percent(high - low)}"></span>'
    return Html(f'<div class="bar" role="img" aria-label="{escape(label)}">{inside}{others}</div>')


def chart(curves: Mapping[str, Sequence[tuple[float, float]]], title: str, x_label: str = "step", width: int = 500, height: int = 220) -> Html:
    """Line chart as SVG with both axes labelled; `curves` maps a name to (x, y) points."""
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return paragraph(f"{title}: nothing was recorded.", "small")
    places = _legend([str(name) for name in curves], 46, width) if len(curves) > 1 else []
    left, right, top, bottom = 46, 12, 24 + (places[-1][1] - 13 if places else 0), 36
    height += places[-1][1] - places[0][1] if places else 0
    x0, x1 = min(p[0] for p in points), max(p[0] for p in points)
    y0, y1 = min(0.0, min(p[1] for p in points)), max(p[1] for p in points)
    x1, y1 = (x1 if x1 > x0 else x0 + 1), (y1 if y1 > y0 else y0 + 1)
    px = lambda x: left + (x - x0) / (x1 - x0) * (width - left - right)  # noqa: E731
    py = lambda y: height - bottom - (y - y0) / (y1 - y0) * (height - top - bottom)  # noqa: E731
    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{escape(title)}"><text class="title" x="{left}" y="13">{escape(title)}</text>'
    ]
    for i in range(5):
        x, y = x0 + (x1 - x0) * i / 4, y0 + (y1 - y0) * i / 4
        parts.append(
            f'<line class="axis" x1="{left}" x2="{width - right}" y1="{py(y):.1f}" y2="{py(y):.1f}"/><text x="{left - 6}" y="{py(y) + 4:.1f}" text-anchor="end">{_tick(y, 3)}</text>'
        )
        parts.append(f'<text x="{px(x):.1f}" y="{height - 19}" text-anchor="{"end" if i == 4 else "middle"}">{_tick(x, 4)}</text>')
    parts.append(f'<text x="{(width + left) / 2}" y="{height - 4}" text-anchor="middle">{escape(x_label)}</text>')
    for i, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[i % len(COLOURS)]
        parts.append(f'<polyline style="stroke:{colour}" points="{" ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in curve)}"/>')
        if len(curve) == 1:
            parts.append(f'<circle style="fill:{colour}" cx="{px(curve[0][0]):.1f}" cy="{py(curve[0][1]):.1f}" r="2.5"/>')
        if places:
            parts.append(f'<text x="{places[i][0]}" y="{places[i][1]}" style="fill:{colour}">{escape(name)}</text>')
    return Html("".join(parts) + "</svg>")


def _legend(names: Sequence[str], left: int, width: int) -> list[tuple[int, int]]:
    """Where each name of a legend stands, in as many lines as they need."""
    places, x, y = [], left, 29
    for name in names:
        if x > left and x + 7 * len(name) > width:
            x, y = left, y + 14
        places.append((x, y))
        x += 7 * len(name) + 14
    return places


def _tick(value: float, digits: int) -> str:
    """A number at an axis, in few characters: 0.125, 12,500, 125k, 2.0e-5."""
    if 1e5 <= abs(value) < 1e8:
        return f"{value / 1000:,.{0 if abs(value) >= 1e6 else 1}f}k".replace(".0k", "k")
    if 10**digits <= abs(value) < 1e5:
        return f"{value:,.0f}"
    return f"{value:.1e}".replace("e-0", "e-") if 0 < abs(value) < 0.01 else f"{value:.{digits}g}"


def _grid(kind: str, cell: str, blocks: Iterable[str]) -> Html:
    return Html(f'<div class="{kind}">' + "".join(f'<div class="{cell}">{block}</div>' for block in blocks) + "</div>")


def tiles(rows: Iterable[tuple[object, object, object]]) -> Html:
    """Large numbers side by side, each between what it is and what to hold it against."""
    return _grid("tiles", "tile", [f"{span(name, 'small')}<b>{escape(value)}</b>{span(beside, 'small')}" for name, value, beside in rows])


def columns(blocks: Iterable[str]) -> Html:
    """Blocks of ready HTML side by side where the screen has room."""
    return _grid("columns", "column", blocks)


class Page:
    """Collects sections and writes one HTML file."""

    def __init__(self, title: str, lead: str = "", refresh: int | None = None) -> None:
        self.title = title
        self.refresh = refresh
        """Seconds after which a browser reads the file again; None = never."""
        self.parts: list[str] = [f"<h1>{escape(title)}</h1>", paragraph(lead, "lead") if lead else ""]

    def add(self, *blocks: str) -> None:
        """Blocks of ready HTML without a heading."""
        self.parts.extend(blocks)

    def section(self, heading: str, *blocks: str, note: str = "") -> None:
        """A heading, an optional plain note, then blocks of ready HTML."""
        self.parts.append(f"<h2>{escape(heading)}</h2>")
        if note:
            self.parts.append(paragraph(note, "lead"))
        self.parts.extend(blocks)

    def cards(self, cards: Iterable[str]) -> Html:
        """A responsive grid of ready HTML blocks."""
        return _grid("cards", "card", cards)

    def write(self, path: Path) -> None:
        """Write the page atomically."""
        head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(self.title)}</title>'
        if self.refresh is not None:
            head += f'<meta http-equiv="refresh" content="{self.refresh}">'
        write_text(path, f"{head}<style>{STYLE}</style></head><body>{''.join(self.parts)}</body></html>\n")

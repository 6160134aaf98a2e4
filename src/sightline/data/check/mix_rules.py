"""Rules about what a whole set is made of: pictures and text, languages, writers, licences, splits."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

from sightline.data.check.row_facts import Finding, RowFacts
from sightline.data.check.survey import Survey, listed, percent, stem
from sightline.data.check.text_rules import language

_HELD_OUT = ("val", "validation", "test", "dev", "testdev", "minival", "held-out")
_TILE = re.compile(r"^(.+?)(?:[_-]\d{4,})+$")
"""A file name that ends in zero-padded numbers: offsets of a tile, number of a frame."""


def held_out(row: RowFacts) -> bool:
    """Whether the row's split is one that scores are taken on."""
    return (row.split or "").casefold() in _HELD_OUT


def modality_mix(survey: Survey) -> Iterator[Finding]:
    """Rows with and without pictures in one source, and rows of several pictures."""
    for source, rows in survey.sources.items():
        counts = Counter(min(len(row.pictures), 2) for row in rows)
        if len(counts) > 1:
            said = ", ".join(f"{count} {what}" for number, what in enumerate(("without pictures", "with one", "with several")) if (count := counts[number]))
            yield Finding(rule="modality-mix", found=said, source=source, figures={str(number): count for number, count in sorted(counts.items())})


def language_mix(survey: Survey) -> Iterator[Finding]:
    """Several scripts in one source."""
    for source, rows in survey.sources.items():
        counts = languages(rows)
        ordered = counts.most_common()
        if len(ordered) > 1 and ordered[1][1] >= survey.config.second_language * counts.total():
            said = ", ".join(f"{percent(count, counts.total())} {name}" for name, count in ordered)
            yield Finding(rule="language-mix", found=f"{said} of {counts.total()} texts", source=source, figures=dict(ordered))


def languages(rows: list[RowFacts]) -> Counter[str]:
    """Texts by script."""
    found = Counter(language(text) for row in rows for text in row.texts)
    del found[""]
    return found


def mixed_writing(survey: Survey) -> Iterator[Finding]:
    """Captions that end, or begin, in several ways: a model learns to imitate the mixture."""
    for source, rows in survey.sources.items():
        captions = [text.strip() for row in rows for text in row.references or row.captions if language(text) == "latin"]
        if len(captions) < survey.config.enough:
            continue
        ends = Counter("a detached full stop" if text.endswith(" .") else "a full stop" if text.endswith(".") else "none" for text in captions)
        capitals = sum(text[:1].isupper() for text in captions)
        mixed = [f"{', '.join(f'{count} end in {end}' for end, count in ends.most_common())}"] if _several(ends.values()) else []
        mixed += [f"{capitals} of {len(captions)} begin with a capital"] if _several((capitals, len(captions) - capitals)) else []
        if mixed:
            yield Finding(rule="mixed-writing", found="; ".join(mixed), source=source, figures={**ends, "capitals": capitals})


def _several(counts: object) -> bool:
    """Whether the second commonest has at least a fiftieth."""
    ordered = sorted(counts, reverse=True)  # pyright: ignore[reportArgumentType]
    return len(ordered) > 1 and ordered[1] >= 0.02 * sum(ordered)


def generic_ratio(survey: Survey) -> Iterator[Finding]:
    """More generic rows than domain rows."""
    generic = sum(survey.roles[row.data_set] == "generic" for row in survey.read)
    domain = len(survey.read) - generic
    if generic and domain < survey.config.domain_to_generic * generic:
        said = f"{domain} domain : {generic} generic rows, at least {survey.config.domain_to_generic:g} : 1 asked"
        yield Finding(rule="generic-ratio", found=said, figures={"domain": domain, "generic": generic})


def model_written(survey: Survey) -> Iterator[Finding]:
    """A large share of text that a model wrote."""
    for source, rows in survey.sources.items():
        written = sum(row.origin.maker.startswith("model:") for row in rows)
        if written > survey.config.model_written * len(rows):
            said = f"{percent(written, len(rows))} of {len(rows)} rows were written by a model"
            yield Finding(rule="model-written", found=said, source=source, figures={"written": written, "rows": len(rows)})


def missing_licence(survey: Survey) -> Iterator[Finding]:
    """Rows of which nobody says under which licence they are."""
    for source, rows in survey.sources.items():
        without = sum(not row.origin.licence for row in rows)
        if without:
            yield Finding(rule="missing-licence", found=f"{without} of {len(rows)} rows state no licence", source=source, figures={"rows": without})


def no_split(survey: Survey) -> Iterator[Finding]:
    """Rows in no split where the others have one; those whose picture is in a split by another row only when that one is held out."""
    for rows in survey.sources.values():
        known = {picture.hash: row for row in rows if row.split is not None for picture in row.pictures}
        others = sum(row.split is not None for row in rows)
        for row in rows if others else ():
            same = next((known[picture.hash] for picture in row.pictures if picture.hash in known), None)
            if row.split is None and (same is None or held_out(same)):
                said = f"no split; {others} others have one" if same is None else f"no split, but the picture is in {same.split!r} by {same.place}"
                yield Finding(rule="no-split", found=said, row=row.number, other=same and same.number)


def no_annotation(survey: Survey) -> Iterator[Finding]:
    """Rows without a region where others have some: nothing is there, or nobody looked."""
    for rows in survey.sources.values():
        without = [row for row in rows if not row.labels and not row.exchanges]
        if any(row.labels for row in rows):
            for row in without:
                yield Finding(rule="no-annotation", found="no region and no text", row=row.number)


def neighbouring_pictures(survey: Survey) -> Iterator[Finding]:
    """Tiles of one scene or frames of one film, by their names: a random split of them is not independent."""
    for source, rows in survey.sources.items():
        scenes: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            for picture in row.pictures:
                name = stem(picture.name)
                if match := _TILE.match(name):
                    scenes[match[1]].add(name)
        several = {scene: names for scene, names in scenes.items() if len(names) > 1}
        if several:
            largest = sorted(several, key=lambda scene: -len(several[scene]))
            said = listed((f"{scene} ({len(several[scene])})" for scene in largest), 4)
            pictures = sum(map(len, several.values()))
            found = f"{pictures} pictures of {len(several)} scenes: {said}"
            yield Finding(rule="neighbouring-pictures", found=found, source=source, figures={"pictures": pictures, "scenes": len(several)})


def mixed_sizes(survey: Survey) -> Iterator[Finding]:
    """Sources of many picture sizes, and of both formats: what a fixed square does to them differs."""
    for source, rows in survey.sources.items():
        sizes = {picture.name: (picture.width, picture.height) for row in rows for picture in row.pictures}
        different = Counter(sizes.values())
        upright = sum(height > width for width, height in sizes.values())
        wide = sum(width > height for width, height in sizes.values())
        if len(different) > 1 and len(sizes) >= survey.config.enough:
            sides = [side for size in different for side in size]
            said = f"{len(different)} sizes, sides {min(sides)} to {max(sides)} px; {wide} wide, {upright} upright, {len(sizes) - wide - upright} square"
            yield Finding(rule="mixed-sizes", found=said, source=source, figures={"sizes": len(different), "least": min(sides), "most": max(sides)})

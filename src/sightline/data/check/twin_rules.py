"""Rules about rows that are alike: duplicates within a set, and leaks between splits and into benchmarks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence

from sightline.data.check.mix_rules import held_out
from sightline.data.check.row_facts import Exchange, Finding, PictureFacts, RowFacts
from sightline.data.check.survey import Survey, firsts, percent, shortened
from sightline.data.check.text_rules import length
from sightline.data.hashing import Near, alike_texts, text_key


def _grouped(rows: Iterable[RowFacts], key: Callable[[RowFacts], Hashable | None]) -> Iterator[list[RowFacts]]:
    """Rows with the same key, where there are several."""
    groups: dict[Hashable, list[RowFacts]] = defaultdict(list)
    for row in rows:
        if (known := key(row)) is not None:
            groups[known].append(row)
    return (group for group in groups.values() if len(group) > 1)


def _shown(row: RowFacts) -> tuple[str, ...]:
    return (*(picture.hash for picture in row.pictures), str(row.attributes.get("picture", "")))


def _said(row: RowFacts) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((text_key(one.question), tuple(map(text_key, one.answers))) for one in row.exchanges)


def duplicate_row(survey: Survey) -> Iterator[Finding]:
    """Rows that show the same pictures and say the same."""
    for first, *others in _grouped(survey.read, lambda row: (_shown(row), _said(row)) if row.exchanges else None):
        for row in others:
            yield Finding(rule="duplicate-row", found=f"the same pictures and texts as {first.place}", row=row.number, other=first.number)


def alike_text(survey: Survey) -> Iterator[Finding]:
    """Rows without pictures whose texts are nearly the same (MinHash)."""
    groups: dict[str, list[RowFacts]] = defaultdict(list)  # n equal texts would be n * n / 2 pairs
    for row in survey.read:
        if row.exchanges and not row.pictures and "picture" not in row.attributes:
            groups[text_key("\n".join(row.texts))].append(row)
    rows = list(groups.values())
    told: set[int] = set()
    for first, second, similarity in alike_texts(list(groups), survey.config.text_likeness):
        if second not in told:
            told.add(second)
            (like, *_), same = rows[first], rows[second]
            said = f"{100 * similarity:.0f} % the same as {like.place}"
            yield from (Finding(rule="alike-text", found=f"{said}: {shortened(chr(10).join(row.texts))!r}", row=row.number, other=like.number) for row in same)


def duplicate_picture(survey: Survey) -> Iterator[Finding]:
    """The same bytes under two names."""
    firsts: dict[str, tuple[RowFacts, PictureFacts]] = {}
    told: set[str] = set()
    for row in survey.read:
        for number, picture in enumerate(row.pictures):
            first, known = firsts.setdefault(picture.hash, (row, picture))
            if known.name != picture.name and picture.name not in told:
                told.add(picture.name)
                texts = "" if _said(first) == _said(row) else ", with other texts"
                said = f"the same bytes as {_name(known)} in {first.place}{texts}"
                yield Finding(rule="duplicate-picture", found=said, row=row.number, other=first.number, picture=number)


def _name(picture: PictureFacts) -> str:
    return picture.name.replace("\\", "/").rsplit("/", 1)[-1]


def near_duplicate(survey: Survey) -> Iterator[Finding]:
    """Pictures that differ by compression, size, a few pixels, a quarter turn or a mirror; each is compared with the first that it is near."""
    mine = firsts(survey.read)
    told: set[str] = set()
    for first, second, pair in survey.near:
        if first in mine and second in mine and second not in told:
            told.add(second)
            (other, at), (row, number) = mine[first], mine[second]
            said = f"{_name(row.pictures[number])} is nearly {_name(other.pictures[at])}: {_how(pair)}"
            figures = {"bits": pair.bits, "turned": pair.turned}
            yield Finding(rule="near-duplicate", found=said, row=row.number, other=other.number, picture=number, figures=figures)


def _how(pair: Near) -> str:
    return f"{'turned or mirrored, ' if pair.turned else ''}{pair.bits} of 64 bits differ"


def leak_between_splits(survey: Survey) -> Iterator[Finding]:
    """Rows for training that show a picture of a held-out split of the same data, exactly or nearly; without pictures, that say the same."""
    yield from _leaks("leak-between-splits", survey, *_splits(survey))


def leak_into_benchmark(survey: Survey) -> Iterator[Finding]:
    """Rows that show a picture of a benchmark, exactly or nearly; without pictures, that say the same."""
    yield from _leaks("leak-into-benchmark", survey, survey.read, survey.against)


def text_in_both_splits(survey: Survey) -> Iterator[Finding]:
    """Long texts about other pictures that stand on both sides of a split, or in a benchmark."""
    train, held = _splits(survey)
    for mine, theirs in ((train, held), (survey.read, survey.against)):
        texts = {text_key(text): row for row in theirs for text in _long(row, survey.config.leak_words)}
        for row in mine if texts else ():
            same = next((text for text in _long(row, survey.config.leak_words, texts) if row.pictures), None)
            if same is not None:
                other = texts[text_key(same)]
                yield Finding(rule="text-in-both-splits", found=f"{shortened(same)!r} is also in {_where(survey, other)}", row=row.number, other=other.number)


def _splits(survey: Survey) -> tuple[list[RowFacts], list[RowFacts]]:
    return [row for row in survey.read if row.split and not held_out(row)], [row for row in survey.read if held_out(row)]


def _leaks(rule: str, survey: Survey, train: Sequence[RowFacts], held: Sequence[RowFacts]) -> Iterator[Finding]:
    if not train or not held:
        return
    kept = firsts(held)
    near: dict[str, tuple[str, Near]] = {}
    for first, second, pair in survey.near:
        for mine, other in ((first, second), (second, first)):
            if other in kept and mine not in kept:
                near.setdefault(mine, (other, pair))
    texts = {text_key(text): row for row in held if not row.pictures for text in row.texts if length(text) >= survey.config.leak_words}
    for row in train:
        found = next(_shown_elsewhere(survey, row, kept, near), None)
        if found is None and not row.pictures:
            same = next((text for text in row.texts if text_key(text) in texts), None)
            found = None if same is None else (f"{shortened(same)!r} is also in {_where(survey, texts[text_key(same)])}", texts[text_key(same)], 0)
        if found is not None:
            yield Finding(rule=rule, found=found[0], row=row.number, other=found[1].number, picture=found[2])


def _shown_elsewhere(
    survey: Survey, row: RowFacts, kept: Mapping[str, tuple[RowFacts, int]], near: Mapping[str, tuple[str, Near]]
) -> Iterator[tuple[str, RowFacts, int]]:
    """What is said of each picture of a row that is, exactly or nearly, one of the held-out ones."""
    for number, picture in enumerate(row.pictures):
        if picture.hash in kept:
            other, place = kept[picture.hash]
            yield f"{_name(picture)} is {_name(other.pictures[place])} of {_where(survey, other)}", other, number
        elif picture.hash in near:
            name, pair = near[picture.hash]
            other, place = kept[name]
            yield f"{_name(picture)} is nearly {_name(other.pictures[place])} of {_where(survey, other)}: {_how(pair)}", other, number


def _where(survey: Survey, row: RowFacts) -> str:
    return f"{survey.source(row)}{f' ({row.split})' if row.split else ''}, {row.place}"


def _long(row: RowFacts, least: int, among: Container[str] | None = None) -> Iterator[str]:
    """Answers, captions and statements of many words; only those whose keys are `among` others."""
    for one in row.exchanges:
        for text in (*one.answers, *([one.question] * _is_statement(one))):
            if (among is None or text_key(text) in among) and length(text) >= least:
                yield text


def repeated_text(survey: Survey) -> Iterator[Finding]:
    """Captions, or questions whose answers differ, that stand with several pictures: a split by rows leaks them, and they do not tell pictures apart."""
    for source, rows in survey.sources.items():
        for what, texts in (("captions", _captions), ("statements", _statements)):
            shown: dict[str, set[tuple[str, ...]]] = defaultdict(set)
            total = 0
            for row in rows:
                said = texts(row) if row.pictures else ()
                pictures = _shown(row) if said else ()
                for text in said:
                    shown[text].add(pictures)
                total += len(said)
            repeated = [text for text, pictures in shown.items() if len(pictures) > 1]
            if repeated and total >= survey.config.enough:
                widest = max(repeated, key=lambda text: len(shown[text]))
                said = (
                    f"{len(repeated)} of {len(shown)} different {what} ({total} in all, {percent(len(shown), total)} different) stand with several pictures, "
                    f"{shortened(widest, 50)!r} with {len(shown[widest])}"
                )
                yield Finding(rule="repeated-text", found=said, source=source, figures={"repeated": len(repeated), "different": len(shown), "texts": total})


def _captions(row: RowFacts) -> Sequence[str]:
    return row.references or row.captions


def _statements(row: RowFacts) -> Sequence[str]:
    return [one.question for one in row.exchanges if _is_statement(one)]


def _is_statement(one: Exchange) -> bool:
    """A sentence to be judged, not a question from a template."""
    return "?" not in one.question and "\uff1f" not in one.question and bool(one.question.strip()) and length(one.question) >= 4

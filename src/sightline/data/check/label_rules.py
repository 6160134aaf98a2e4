"""Rules about the names of things over a whole source: spellings, frequencies, and names of files that say the class."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from sightline.data.check.row_facts import Finding, RowFacts
from sightline.data.check.survey import Survey, asked, distinct, listed, percent, same_name, stem
from sightline.data.check.text_rules import inked, words
from sightline.data.hashing import text_key
from sightline.data.labels import LabelTable, spelled

_NAMED = re.compile(r"^([A-Za-z]+(?:[ _-][A-Za-z]+)*?)[ _-]?\d+$")
_AGREED = 0.8
"""Share of rows whose answer is the word in the file name, from which the others are called wrong."""
_KINDS = ("kind", "class")
_SWAP = 3
"""Times that a name must be as frequent as its likely misspelling."""


def label_variants(survey: Survey) -> Iterator[Finding]:
    """Names that are spellings of one another: in case, hyphens, plural, by a letter, or by the table of labels; and kinds of questions likewise."""
    for source, rows in survey.sources.items():
        counts = Counter(label for row in rows for label in row.labels if label)
        counts.update(str(row.attributes["class"]) for row in rows if "class" in row.attributes)
        for names, why in _same_names(counts):
            yield Finding(rule="label-variants", found=f"{_counted(names, counts)}: {why}", source=source, figures={"names": len(names)})
        kinds = Counter(kind for row in rows for kind in str(row.attributes.get("kind", "")).split(",") if kind.strip())
        for names, why in _misspelt(kinds):
            yield Finding(rule="label-variants", found=f"question kinds {_counted(names, kinds)}: {why}", source=source, figures={"names": len(names)})
        yield from _said_otherwise(source, rows, counts)


def _counted(names: Iterable[str], counts: Mapping[str, int]) -> str:
    return " / ".join(f"{name!r} {counts[name]}" for name in names)


def _same_names(counts: Counter[str]) -> Iterator[tuple[list[str], str]]:
    """Groups of names that are one, each name in its first group only."""
    by_key: dict[str, list[str]] = defaultdict(list)
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        by_key[same_name(name)].append(name)
    for names in by_key.values():
        if len(names) > 1:
            yield names, "the same words in another spelling"
    table = LabelTable.load()
    known: dict[str, list[str]] = defaultdict(list)
    for key, names in by_key.items():
        if (label := table.find(key)) is not None:
            known[label.id].append(names[0])
    for label, names in known.items():
        if len(names) > 1:
            yield names, f"names of {label} in the table of labels"
    yield from _misspelt(Counter({names[0]: sum(counts[name] for name in names) for key, names in by_key.items() if table.find(key) is None}))


def _misspelt(counts: Counter[str]) -> Iterator[tuple[list[str], str]]:
    """Rare names one letter, or one swap of letters, away from a frequent one."""
    names = [name for name, _ in counts.most_common()]
    for number, name in enumerate(names):
        for frequent in names[:number]:
            if counts[frequent] >= _SWAP * counts[name] and len(name) >= 4 and _one_apart(spelled(frequent), spelled(name)):
                yield [frequent, name], "one letter apart"
                break


def _one_apart(a: str, b: str) -> bool:
    """Whether one insertion, deletion, substitution, or swap of neighbours turns `a` into `b` (Damerau, 1964); numbers at the end are no spelling."""
    if a == b or abs(len(a) - len(b)) > 1 or a[-1:].isdigit() or b[-1:].isdigit():
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    end = next((i for i, (x, y) in enumerate(zip(a[::-1], b[::-1])) if x != y), min(len(a), len(b)))
    left_a, left_b = a[start : len(a) - min(end, len(a) - start)], b[start : len(b) - min(end, len(b) - start)]
    return max(len(left_a), len(left_b)) <= 1 or (len(left_a) == len(left_b) == 2 and left_a == left_b[::-1])


def _said_otherwise(source: str, rows: list[RowFacts], counts: Counter[str]) -> Iterator[Finding]:
    """Labels that the texts of the same source write in another way: `large-vehicle` in the boxes, `large vehicle` in the questions."""
    texts = "\n".join(text.casefold() for row in rows for text in row.texts)
    if not texts:
        return
    other = [name for name in counts if spelled(name) != name.casefold() and spelled(name) in texts and name.casefold() not in texts]
    if other:
        said = listed(f"{name!r} is {spelled(name)!r}" for name in sorted(other))
        yield Finding(rule="label-variants", found=f"in texts {said}", source=source, figures={"names": len(other)})


def _file_word(row: RowFacts) -> str | None:
    """`dense residential` of `denseresidential_12.jpg`, squashed: the word before the number in the name of the first picture."""
    match = _NAMED.match(stem(row.pictures[0].name)) if row.pictures else None
    return _squashed(match[1]) if match else None


def _squashed(text: str) -> str:
    return inked(text.casefold())


def name_against_answer(survey: Survey) -> Iterator[Finding]:
    """Where the answer to a question nearly always is the word in the picture's file name, the rows in which it is another word."""
    for rows in survey.sources.values():
        by_question: dict[str, list[tuple[RowFacts, str, str]]] = defaultdict(list)
        for row, exchange in asked(rows):
            if (word := _file_word(row)) is not None:
                by_question[text_key(exchange.question)].append((row, word, exchange.answers[0]))
        for found in by_question.values():
            wrong = [(row, word, answer) for row, word, answer in found if _squashed(answer) != word]
            if len(found) >= survey.config.enough and 0 < len(wrong) <= (1 - _AGREED) * len(found):
                for row, word, answer in wrong:
                    said = (
                        f"the file name says {word!r}, the answer {answer!r}; they agree in {percent(len(found) - len(wrong), len(found))} of {len(found)} rows"
                    )
                    yield Finding(rule="name-against-answer", found=said, row=row.number)


def caption_names_class(survey: Survey) -> Iterator[Finding]:
    """Captions that say the class: a caption score then measures classification."""
    for source, rows in survey.sources.items():
        pairs = [(word, caption) for row in rows if (word := _class_of(row)) for caption in row.references or row.captions]
        if len(pairs) >= survey.config.enough and len({word for word, _ in pairs}) > 1:
            named = sum(word in _squashed(caption) for word, caption in pairs)
            if named > survey.config.prior * len(pairs):
                said = f"{percent(named, len(pairs))} of {len(pairs)} captions contain the class of their picture"
                yield Finding(rule="caption-names-class", found=said, source=source, figures={"named": named, "captions": len(pairs)})


def _class_of(row: RowFacts) -> str | None:
    stated = row.attributes.get("class")
    return _squashed(stated) if isinstance(stated, str) else _file_word(row)


def class_imbalance(survey: Survey) -> Iterator[Finding]:
    """One class with most of the objects, of the area, or of the rows; or a rarest class that hardly occurs."""
    for source, rows in survey.sources.items():
        objects, extent = Counter[str](), Counter[str]()
        for row in distinct(rows):
            for label, size in zip(row.labels, row.areas, strict=True):
                if label:
                    objects[label] += 1
                    extent[label] += size  # pyright: ignore[reportArgumentType]
        classes = Counter(str(row.attributes["class"]) for row in rows if "class" in row.attributes)
        for what, counts in (("objects", objects), ("area", extent), ("rows", classes)):
            yield from _uneven(survey, source, what, counts)


def _uneven(survey: Survey, source: str, what: str, counts: Counter[str]) -> Iterator[Finding]:
    config = survey.config
    if len(counts) < 2 or (what != "area" and counts.total() < config.enough):
        return
    ordered = counts.most_common()
    (top, most), (last, least) = ordered[0], ordered[-1]
    if most > config.most_of_class * counts.total() or (what != "area" and most > config.imbalance * least):
        rare = "" if what == "area" else f"; {last!r} {least} times, {most / least:.0f} times fewer"
        said = f"{top!r} has {percent(most, counts.total())} of the {what} of {len(counts)} classes{rare}"
        yield Finding(rule="class-imbalance", found=said, source=source, figures={"top": most / counts.total(), "classes": len(counts)})


def frequent_words(rows: Iterable[RowFacts], most: int = 40) -> list[tuple[str, int]]:
    """Labels by how often they occur; where a set has none, words of its captions that are longer than three letters or Chinese pairs."""
    rows = list(rows)
    labels = Counter(same_name(label) for row in distinct(rows) for label in row.labels if label)
    labels.update(same_name(str(row.attributes["class"])) for row in rows if "class" in row.attributes)
    if labels:
        return labels.most_common(most)
    said = Counter(word for row in rows for text in {*row.captions, *(answer for one in row.exchanges for answer in one.answers[:1])} for word in words(text))
    return [(word, count) for word, count in said.most_common(8 * most) if len(word) > 3][:most]

"""MathVista (Lu et al. 2024): mathematics in pictures. An answer is taken out of the words by rule, put into the form of the right one, and compared with it as text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from sightline.data.readers.files import parse_json
from sightline.evaluate import choices
from sightline.evaluate.metrics import Value, share
from sightline.evaluate.official_sets import mathvista_rows
from sightline.evaluate.published import DIRECT, LETTERS, PublishedKind, PublishedRow, Verdict, by_group
from sightline.evaluate.vlmevalkit_tsv import listed, read_tsv

_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+)(?:[eE][+-]?\d+)?")
_LIST = re.compile(r"\[[^\[\]]{0,400}\]")
_QUOTED = re.compile(r'answer is:? "([^"]*)"', re.IGNORECASE)
_STATED = re.compile(r"(?:answer|result)(?:\s+is|\s*:)+\s*\**\s*\$?(-?[\d.,]+)", re.IGNORECASE)
_LETTER = re.compile(r"\(([A-Za-z])\)")


class MathVista(PublishedKind):
    """MathVista: testmini.json with its pictures, or a TSV file. No model extracts answers: what the rules cannot find is wrong, and counted as unparsed."""

    files: ClassVar[str] = "testmini.json, or a TSV file"
    kind: Literal["mathvista"] = "mathvista"
    max_tokens: int = 256
    """Longest answer."""

    def rows(self, seen: bool) -> Iterator[PublishedRow]:
        """See PublishedKind. In TSV files `choices` is a list literal and `answer` the text of one of them."""
        path = Path(self.path)
        if path.suffix != ".tsv":
            yield from mathvista_rows(path, self.seen(seen))
            return
        for row in read_tsv(path, self.folder(), seen):
            options = dict(zip(LETTERS, listed(row.fields["choices"], row.place), strict=False)) if row.told("question_type") == "multi_choice" else {}
            letter = row.told("answer_option") or next((key for key, text in options.items() if text == row.answer), row.answer)
            yield PublishedRow(**{**vars(row), "options": options, "answer": letter if options else row.answer})

    def asked(self, row: PublishedRow) -> str:
        """The published query where the file has it; else question, options, and the form of the answer."""
        if query := row.told("query"):
            return query
        decimals = row.told("precision").partition(".")[0] or "2"
        forms = {"integer": "a whole number", "float": f"a number with {decimals} decimal places", "list": "a list such as [1, 2]"}
        form = DIRECT if row.options else f"Answer with {forms.get(row.told('answer_type'), 'a single word or phrase')}."
        return "\n".join([row.question, *(f"({letter}) {text}" for letter, text in row.options.items()), self.prompt or form])

    def verdict(self, row: PublishedRow, answer: str) -> Verdict:
        """The extracted answer in the right answer's form, equal to it or not."""
        if row.options:
            chosen = _chosen(answer, row)
            return Verdict(score=float(chosen == row.answer), read=chosen)
        kind, places = row.told("answer_type"), int(float(row.told("precision") or 0))
        read = _extracted(answer, kind, places)
        wanted = _form(row.answer, kind, places)
        return Verdict(score=float(read is not None and read == wanted), read=read)

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """`all`, then by task and by skill; a question may need several skills."""
        scores = [verdict.score for verdict in verdicts]
        found = {"all": share(sum(scores), len(scores))} | by_group([row.told("task") for row in rows], scores)
        pairs = [(skill, score) for row, score in zip(rows, scores, strict=True) for skill in _skills(row)]
        return found | by_group([f"skill {skill}" for skill, _ in pairs], [score for _, score in pairs])


def _skills(row: PublishedRow) -> list[str]:
    text = row.told("skills")
    if not text.startswith("["):
        return [text] if text else []
    try:
        return [str(one) for one in parse_json(text)]
    except ValueError:
        return listed(text, row.place)


def _chosen(answer: str, row: PublishedRow) -> str | None:
    """The letter in brackets, else the option that `match` finds, else the one option that is the answer's only text but for case; no nearest option is guessed."""
    named = [letter.upper() for letter in _LETTER.findall(answer) if letter.upper() in row.options]
    if named and len(set(named)) == 1:
        return named[0]
    found = choices.match(answer, row.options)
    if found is not None:
        return found if found in row.options else None
    same = [letter for letter, text in row.options.items() if text.strip().casefold() == answer.strip().strip(".").casefold()]
    return same[0] if len(same) == 1 else None


def _extracted(answer: str, kind: str, places: int) -> str | None:
    """The number that is stated as the answer, else the last one; the last list; or the words themselves. In the form of `_form`; None = there is none."""
    text = answer.strip()
    quoted = _QUOTED.search(text)
    if quoted:
        text = quoted[1]
    if kind in ("integer", "float"):
        stated = _STATED.search(text)
        numbers = _NUMBER.findall(stated[1] if stated else text)
        return _form(numbers[-1], kind, places) if numbers else None
    if kind == "list":
        lists = _LIST.findall(text)
        return _form(lists[-1], kind, places) if lists else None
    return _form(text, kind, places) if text else None


def _form(text: str, kind: str, places: int) -> str | None:
    """The text of int(float), of a number rounded to `places`, of a list with single blanks, or of words as they are."""
    if kind in ("integer", "float"):
        try:
            number = float(text.replace(",", ""))
            return str(int(number)) if kind == "integer" else str(round(number, places))
        except (ValueError, OverflowError):
            return None
    return ", ".join(part.strip() for part in text.split(",")) if kind == "list" else text.strip()

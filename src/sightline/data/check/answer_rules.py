"""Rules about answers: against each other, against annotations, and against what could be said without looking."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, pairwise

from sightline.data.check.check_config import CheckConfig
from sightline.data.check.row_facts import Exchange, Finding, RowFacts, regions_of
from sightline.data.check.survey import Survey, asked, listed, percent, same_name, shortened
from sightline.data.check.text_rules import length, words
from sightline.data.hashing import text_key
from sightline.data.labels import singular, spelled
from sightline.data.wording import NUMBERS
from sightline.samples.sample import Sample

_COUNT = re.compile(r"^(?:how many|what is the number of|what number of|count the)\s+(.+?)(?:\s+(?:are|is|can|do|in|on|there|exist)\b.*)?\??$")
_PRESENCE = re.compile(
    r"^(?:is|are) there (?:not )?(?:an?|any|some)?\s*(.+?)(?:\s+(?:in|on|at) (?:the|this) (?:image|picture|photo|scene).*)?\??$"
    r"|^(?:does|do) (?:the|this) (?:image|picture|photo|scene) (?:contain|have|show)s? (?:an?|any|some)?\s*(.+?)\??$"
    r"|^(?:is|are) (?:an?|any|some)?\s*(.+?) present(?: in (?:the|this) (?:image|picture|photo|scene))?\??$"
)
_NEGATED = re.compile(r"\b(?:not|(?<!or )no|never|without|none|isn't|aren't|doesn't|don't)\b|\u4e0d|\u6ca1\u6709|\u672a")
_NUMBER_WORDS = {word: number for number, word in enumerate(NUMBERS)} | {"zero": 0, "none": 0}
_POLARITY = {"yes": True, "no": False}


def _number(text: str) -> int | None:
    plain = text_key(text).rstrip(".")
    return int(plain) if plain.isdecimal() and len(plain) < 9 else _NUMBER_WORDS.get(plain)


@dataclass
class _Counts:
    """Objects of one kind of shape by label: all, and those that are not set aside."""

    every: Counter[str] = field(default_factory=Counter)
    sure: Counter[str] = field(default_factory=Counter)


def _counts(sample: Sample, row: RowFacts) -> dict[type | None, _Counts]:
    """Under None over all shapes, then for each kind of shape: the same objects may stand there as boxes and as masks."""
    found: defaultdict[type | None, _Counts] = defaultdict(_Counts)
    for region, label, aside in zip(regions_of(sample), row.labels, row.aside, strict=True):
        if label is not None:
            for kind in (None, type(region.shape)):
                found[kind].every[same_name(label)] += 1
                found[kind].sure[same_name(label)] += not aside
    return found


def answer_against_annotations(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """Counts and yes/no answers that contradict the regions of the same row. Whole-set labels are needed for `no`, so a label that the row does not have counts as none."""
    if not row.labels or not row.exchanges:
        return
    counts = _counts(sample, row)
    for exchange in row.exchanges:
        if (said := _contradiction(exchange, counts)) is not None:
            regions = tuple(number for number, label in enumerate(row.labels) if label and same_name(label) in said)
            yield Finding(rule="answer-against-annotations", found=said, regions=regions)


def _contradiction(exchange: Exchange, counts: Mapping[type | None, _Counts]) -> str | None:
    question, answer = " ".join(exchange.question.casefold().split()), exchange.answers[0]
    if (match := _COUNT.match(question)) and (number := _number(answer)) is not None:
        label = same_name(match[1])
        kinds = [one for one in counts.values() if one.every[label]] or [counts[None]]
        # Difficult objects may be counted or not.
        if not any(one.sure[label] <= number <= one.every[label] for one in kinds):
            return f"{shortened(exchange.question)} {answer}; {counts[None].every[label]} regions of {label!r}"
    if (match := _PRESENCE.match(question)) and (yes := _POLARITY.get(text_key(answer).rstrip("."))) is not None:
        label = same_name(next(filter(None, match.groups())))
        there, negated = counts[None], " not " in question
        if (yes != negated) != (there.every[label] > 0) and not (there.every[label] and not there.sure[label]):
            return f"{shortened(exchange.question)} {answer}; {there.every[label]} regions of {label!r}"
    return None


def conflicting_answers(survey: Survey) -> Iterator[Finding]:
    """The same question about the same pictures with answers that have nothing in common: one of them is wrong."""
    groups: dict[tuple[object, ...], list[tuple[RowFacts, Exchange]]] = defaultdict(list)
    for row, exchange in asked(survey.read):
        # In a dialogue without pictures an answer depends on what was said before; a question set whose pictures are elsewhere names them.
        if len(row.exchanges) == 1 or row.pictures:
            shown = (*(picture.hash for picture in row.pictures), str(row.attributes.get("picture", "")))
            groups[(shown, text_key(exchange.question))].append((row, exchange))
    for group in groups.values():
        first, answers = group[0][0], {text_key(answer).rstrip(".") for answer in group[0][1].answers}
        for row, exchange in group[1:]:
            mine = {text_key(answer).rstrip(".") for answer in exchange.answers}
            if not mine & answers:
                said = f"{shortened(exchange.question)} {listed(sorted(mine), 2)!r}, but {listed(sorted(answers), 2)!r} in {first.place}"
                yield Finding(rule="conflicting-answers", found=said, row=row.number, other=first.number)


def missing_label(survey: Survey) -> Iterator[Finding]:
    """Captions that name a label of the set's annotations which this row's annotations lack: forgotten by one or invented by the other."""
    for rows in survey.sources.values():
        known = {same_name(label) for row in rows for label in row.labels if label}
        for row in rows:
            if row.labels and row.captions:
                mine = {same_name(label) for label in row.labels if label}
                text = " ".join(" ".join(map(singular, words(caption))) for caption in row.captions)
                named = sorted(label for label in known - mine if f" {label} " in f" {text} ")
                if named:
                    yield Finding(rule="missing-label", found=f"captions name {listed(named)}, annotations have {listed(sorted(mine))}", row=row.number)


def language_prior(survey: Survey) -> Iterator[Finding]:
    """Questions that are answered right without the picture: by the commonest answer of all, or of each question's text."""
    for source, rows in survey.sources.items():
        pairs = [(text_key(exchange.question), text_key(exchange.answers[0])) for row, exchange in asked(rows) if row.pictures]
        if len(pairs) < survey.config.enough:
            continue
        by_question: dict[str, Counter[str]] = defaultdict(Counter)
        for question, answer in pairs:
            by_question[question][answer] += 1
        majority = Counter(answer for _, answer in pairs).most_common(1)[0]
        # A question asked once says nothing about its answer.
        often = {question: answers for question, answers in by_question.items() if answers.total() > 1}
        repeated = sum(answers.total() for answers in often.values())
        right = sum(answers.most_common(1)[0][1] for answers in often.values())
        blind = right / repeated if repeated >= survey.config.enough else 0.0
        if max(majority[1] / len(pairs), blind) > survey.config.prior:
            always = sum(len(answers) == 1 for answers in often.values())
            said = (
                f"always {majority[0]!r} is right in {percent(majority[1], len(pairs))} of {len(pairs)} questions, "
                f"the commonest answer of each question's text in {percent(blind, 1)}; {always} of {len(often)} repeated questions have one answer only"
            )
            figures = {"majority": majority[1] / len(pairs), "by question": blind, "questions": len(pairs), "texts": len(by_question)}
            yield Finding(rule="language-prior", found=said, source=source, figures=figures)


def negated_questions(survey: Survey) -> Iterator[Finding]:
    """Sources in which many questions hold a negation: the answer flips with one small word."""
    for source, rows in survey.sources.items():
        questions = [exchange.question.casefold() for _, exchange in asked(rows)]
        negated = sum(bool(_NEGATED.search(question)) for question in questions)
        if len(questions) >= survey.config.enough and negated >= survey.config.negated * len(questions):
            said = f"{negated} of {len(questions)} questions ({percent(negated, len(questions))}) hold a negation"
            plain = sum(" not " in f" {question} " for question in questions)
            figures = {"negated": negated, "not": plain, "questions": len(questions)}
            yield Finding(rule="negated-questions", found=said, source=source, figures=figures)


def answer_variants(survey: Survey) -> Iterator[Finding]:
    """Short answers that differ only in case, final stop or white space: scored as different, learnt as different."""
    for source, rows in survey.sources.items():
        forms: dict[str, Counter[str]] = defaultdict(Counter)
        for _, exchange in asked(rows):
            if length(exchange.answers[0]) < survey.config.sentence_words:
                forms[text_key(exchange.answers[0]).rstrip(".")][exchange.answers[0]] += 1
        mixed = sorted((written for written in forms.values() if len(written) > 1), key=Counter.total, reverse=True)
        if mixed:
            said = "; ".join(" / ".join(f"{form!r} {count}" for form, count in written.most_common(3)) for written in mixed[:4])
            yield Finding(rule="answer-variants", found=f"{len(mixed)} answers: {said}", source=source, figures={"answers": len(mixed)})


def template_monotony(survey: Survey) -> Iterator[Finding]:
    """Sentences of a source that have the same form once numbers and labels are masked, and too few different pairs of words (distinct-2)."""
    for source, rows in survey.sources.items():
        labels = {label for row in rows for name in row.labels if name and (label := spelled(name))}
        sentences = [tokens for tokens in map(words, _sentences(rows)) if len(tokens) >= survey.config.sentence_words]
        if len(sentences) < survey.config.enough:
            continue
        masked = _Masked(labels)
        forms = Counter(" ".join(map(masked.__getitem__, tokens)) for tokens in sentences)
        top, count = forms.most_common(1)[0]
        pairs = Counter(chain.from_iterable(map(pairwise, sentences)))
        distinct = len(pairs) / pairs.total()
        if count > survey.config.form_share * len(sentences) or distinct < survey.config.distinct:
            said = (
                f"{percent(count, len(sentences))} of {len(sentences)} sentences have the form {shortened(top, 60)!r}; "
                f"the 20 commonest forms make up {percent(sum(times for _, times in forms.most_common(20)), len(sentences))}; distinct-2 {distinct:.3f}"
            )
            yield Finding(rule="template-monotony", found=said, source=source, figures={"top": count / len(sentences), "distinct-2": distinct})


def _sentences(rows: Iterable[RowFacts]) -> Iterator[str]:
    return (answer for row in rows for exchange in row.exchanges for answer in exchange.answers)


class _Masked(dict[str, str]):
    """Each word as it stands in a form: numbers are #, labels *."""

    def __init__(self, labels: set[str]) -> None:
        super().__init__()
        self._labels = labels

    def __missing__(self, word: str) -> str:
        self[word] = "#" if word.isdigit() or word in _NUMBER_WORDS else "*" if singular(word) in self._labels else word
        return self[word]

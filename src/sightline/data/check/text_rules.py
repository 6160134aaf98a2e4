"""Rules about the texts of single rows: characters, white space, lengths, languages, repetitions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from sightline.data.check.check_config import CheckConfig
from sightline.data.check.row_facts import Finding, RowFacts
from sightline.data.check.survey import listed, percent, shortened
from sightline.samples.sample import Sample

_CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")
_LETTER = re.compile(r"[^\W\d_]")
_WORDS = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W_]+(?:['\u2019-][^\W_]+)*")
_ODD: dict[str, tuple[tuple[str, ...], re.Pattern[str]]] = {
    "replacement characters": (("\ufffd",), re.compile("\ufffd")),
    "control characters": ((), re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")),
    "invisible characters": ((), re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ue000-\uf8ff]")),
    "UTF-8 read as Latin-1": (("\u00c3", "\u00e2", "\u00c2"), re.compile("\u00c3[\u0080-\u00bf]|\u00e2\u20ac|\u00c2[\u00a0-\u00bf]")),
    "`?` where a sign was lost": (("?",), re.compile(r"\d[.,]\d+\?|\w\?\w")),
    "HTML": (("<", "&"), re.compile(r"</?(?:p|br|div|span|a|b|i|img|font)\b[^<>]*>|&(?:amp|lt|gt|quot|nbsp|#\d+);")),
    "an address of the web": (("://", "www."), re.compile(r"https?://|www\.[a-z]")),
    "a mark of a picture or a box": (("<",), re.compile(r"<(?:image|img|video|box|ref|quad)>")),
}
"""What does not belong into a text, by what people call it: signs without which it cannot be there (none: a sign that is not printable), and the pattern."""
_SIGNS = dict.fromkeys(code for code in range(128) if not chr(code).isalnum())
_HOLE = re.compile(r"\S {2,}\S")


def language(text: str) -> str:
    """`zh`, `latin`, `other` by the script of most letters; empty when there is no letter. A Chinese character weighs as much as three letters."""
    if text.isascii():
        return "latin" if any(map(str.isalpha, text)) else ""
    chinese, latin = len(_CHINESE.findall(text)), len(_LATIN.findall(text))
    others = len(_LETTER.findall(text)) - chinese - latin
    best = max(("zh", 3 * chinese), ("latin", latin), ("other", others), key=lambda pair: pair[1])
    return best[0] if best[1] else ""


def words(text: str) -> list[str]:
    """Words in lower case; each Chinese character is one."""
    return _WORDS.findall(text.casefold())


def inked(text: str) -> str:
    """The letters and digits of a text."""
    return text.translate(_SIGNS) if text.isascii() else "".join(filter(str.isalnum, text))


def length(text: str) -> float:
    """Length in words; three Chinese characters count as two words."""
    chinese = 0 if text.isascii() else len(_CHINESE.findall(text))
    return len(_WORDS.findall(text)) - chinese / 3


def read_with_loss(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """What the reader of a row says it lost or changed."""
    if row.lost:
        yield Finding(rule="read-with-loss", found="; ".join(f"{problem.code}: {problem.found}" for problem in row.lost))


def odd_text(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """Characters that a wrong encoding, markup or a broken export left behind."""
    texts = (*row.texts, *row.references)
    joined = "\n".join(texts)
    hidden = not all(map(str.isprintable, texts))
    likely = {name: pattern for name, (signs, pattern) in _ODD.items() if (any(map(joined.__contains__, signs)) if signs else hidden)}
    found = {name: match for name, pattern in likely.items() if (match := pattern.search(joined))}
    if found:
        said = "; ".join(f"{name}: {_around(joined, match)!r}" for name, match in found.items())
        yield Finding(rule="odd-text", found=said)


def _around(text: str, match: re.Match[str]) -> str:
    return text[max(0, match.start() - 20) : match.end() + 20]


def lost_word(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """Two blanks inside a text: a template that was filled with nothing."""
    holes = [text for text in row.texts if "  " in text and _HOLE.search(text)]
    if holes:
        match = _HOLE.search(holes[0])
        assert match is not None, "searched a moment ago"
        yield Finding(rule="lost-word", found=f"two blanks in {_around(holes[0], match)!r}")


def stray_white_space(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """White space or line breaks around texts, as published or as they will be trained on."""
    texts = row.references or row.texts
    found = [text for text in texts if text != text.strip()]
    if found:
        yield Finding(rule="stray-white-space", found=f"{len(found)} of {len(texts)} texts, such as {found[0][-40:]!r}", figures={"texts": len(found)})


def empty_text(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """Rows with turns that say nothing: no letter and no digit."""
    empty = [answer for exchange in row.exchanges for answer in exchange.answers if not any(map(str.isalnum, answer))]
    said = [item for turn in sample.turns if turn.role == "assistant" for item in turn.items if not hasattr(item, "text")]
    if empty and not said:
        yield Finding(rule="empty-text", found=f"{len(empty)} answers without a letter or digit: {listed(map(repr, empty), 3)}")


def repeated_caption(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """A picture whose captions are partly the same text: they count several times, and scores against the others are too good."""
    captions = list(row.references or row.captions)
    different = len(set(captions))
    if len(captions) > 1 and different < len(captions):
        commonest = Counter(captions).most_common(1)[0]
        said = f"{different} different of {len(captions)} captions; {commonest[1]} times {shortened(commonest[0])!r}"
        yield Finding(rule="repeated-caption", found=said, figures={"different": different, "captions": len(captions)})


def caption_length(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """Captions that are too short, too long, or hardly words."""
    if not row.pictures:
        return
    least, most = config.caption_words
    for caption in row.captions:
        count = length(caption)
        if not least <= count <= most:
            yield Finding(rule="caption-length", found=f"{count:g} words: {shortened(caption)!r}")
            return
        lettered = len(inked(caption))
        if lettered < config.letters * len(caption) and lettered < config.letters * (signs := len("".join(caption.split()))):
            yield Finding(rule="caption-length", found=f"{percent(lettered, signs)} letters and digits: {shortened(caption)!r}")
            return


def language_switch(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """A question in one language with an answer in another."""
    for exchange in row.exchanges:
        asked, said = language(exchange.question), language(exchange.answers[0])
        if asked and said and asked != said:
            yield Finding(
                rule="language-switch", found=f"{asked} {shortened(exchange.question, 40)!r}, answered in {said} {shortened(exchange.answers[0], 40)!r}"
            )
            return


def cut_answer(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """Rows longer than the model takes. Pictures are never cut, so the row would be refused, or its answer lost, hours into a run."""
    if config.max_tokens is not None and row.tokens is not None and row.tokens > config.max_tokens:
        yield Finding(rule="cut-answer", found=f"{row.tokens} tokens, at most {config.max_tokens}", figures={"tokens": row.tokens})


def unfit_row(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """Rows that the model of the recipe refuses for another reason than their length."""
    if row.unfit:
        yield Finding(rule="unfit-row", found="; ".join(f"{problem.code}: {problem.found}" for problem in row.unfit))


def annotators_disagree(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """Answers of several people, as published, that are not all the same."""
    answers = row.attributes.get("answers")
    if isinstance(answers, list | tuple) and len(answers) > 1:
        votes = Counter(str(answer).strip().casefold() for answer in answers)
        if len(votes) > 1:
            yield Finding(rule="annotators-disagree", found=", ".join(f"{count} x {shortened(vote, 30)!r}" for vote, count in votes.most_common(4)))

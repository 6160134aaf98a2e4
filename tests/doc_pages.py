"""What stands on the pages: fenced blocks with the marks before them, and the command lines of `sightline` that they and the prose show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

ORDERS = ("tiny", "not run", "run elsewhere")
"""Words of the HTML comment on the line before a block: `tiny: COMMAND` runs that in its place; `not run: REASON` is for what installs; `run elsewhere: REASON` for what a test cannot run here."""
FENCE = re.compile(rf"(?:^<!-- (?P<order>{'|'.join(ORDERS)}): (?P<text>[^\n]+?) -->\n+)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^(?:\.venv/bin/)?(?:sightline|pip|make|git|curl|torchrun|srun|lmms-eval|docker|python3?) ", re.MULTILINE)
SPAN = re.compile(r"`((?:\.venv/bin/)?sightline [^`\n]+)`")
_CALL = re.compile(r"(?:^\s*|&& |\|\| |; |-m |\$\()(?:\.venv/bin/)?sightline ")
_COMMENT = re.compile(r"(?:^|\s)#(?:\s.*)?$", re.MULTILINE)
_ENDS = {"&&", "||", "|", ";", ">", ">>", "<", "<<", ")", "&"}


@dataclass(frozen=True, kw_only=True)
class Fenced:
    """One fenced block of a page."""

    line: int
    order: str | None
    text: str | None
    """What the mark says."""
    language: str
    code: str

    @property
    def commands(self) -> bool:
        """Whether somebody would type it: a shell or a Python block, or a block of text with a command in it."""
        return self.language in ("bash", "sh", "python") or (self.language in ("", "text") and COMMANDS.search(self.code) is not None)


def fenced(page: str) -> list[Fenced]:
    """All blocks of a page, in order."""
    return [
        Fenced(line=page.count("\n", 0, match.start("code")) + 1, order=match["order"], text=match["text"], language=match["language"], code=match["code"])
        for match in FENCE.finditer(page)
    ]


def headings(page: str) -> list[int]:
    """The levels of the headings of a page, in order; `#` inside blocks is none."""
    return [len(marks) for marks in re.findall(r"^(#+) ", FENCE.sub("", page), re.MULTILINE)]


def table_rows(page: str) -> int:
    """Lines of tables."""
    return len(re.findall(r"^\|", FENCE.sub("", page), re.MULTILINE))


def command_lines(page: str) -> Iterator[list[str]]:
    """The words after `sightline` of every command line in the blocks of a page and in their marks."""
    for block in fenced(page):
        if block.language not in ("bash", "sh", "text", ""):
            continue
        for text in (block.code, block.text if block.order == "tiny" else None):
            yield from _of(text or "")


def _of(text: str) -> Iterator[list[str]]:
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if _CALL.search(line) is None:
            continue
        lexer = shlex.shlex(_COMMENT.sub("", line), posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, ""
        words: list[str] | None = None
        for word in lexer:
            if word in _ENDS:
                if words is not None:
                    yield words
                words = None
            elif words is not None:
                words.append(word)
            elif word.rpartition("/")[2] == "sightline":
                words = []
        if words is not None:
            yield words


def spans(page: str) -> list[list[str]]:
    """The words after `sightline` of what the prose quotes; `..` stands for what is left out."""
    return [[word for word in span.split()[1:] if word.strip(".")] for span in SPAN.findall(FENCE.sub("", page))]

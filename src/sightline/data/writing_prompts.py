"""What a model that writes is told: one YAML table in two languages, and worked examples from a folder of the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from sightline.errors import Problem, Refused
from sightline.samples.sample import Item, Text, Turn

Language = Literal["en", "zh"]
TABLE = Path(__file__).parent / "writing_prompts.yaml"
GIVEN, SAID, SYSTEM = "_caps.txt", "_conv.txt", "system_message.txt"
"""Ends of the names of an example's two files, and the file that says the model's part, in the published form: 000_caps.txt (what is given), 000_conv.txt (what is written)."""
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What stands around a row."""

    system: str
    ask: str
    """With slots for what is known of the row."""
    shown: tuple[tuple[str, str], ...] = ()
    """Worked examples: what was asked, what was written."""
    questions: tuple[str, ...] = ()
    """What the row's user says in the end; empty where the row or the model says it."""

    def turns(self, *shown: Item, **slots: str | int) -> tuple[Turn, ...]:
        """The turns of a request: its part, the examples, then the pictures `shown` and the row."""
        lead = (Turn(role="system", items=(Text(text=self.system),)),) if self.system else ()
        examples = tuple(
            turn for asked, said in self.shown for turn in (Turn(role="user", items=(Text(text=asked),)), Turn(role="assistant", items=(Text(text=said),)))
        )
        return (*lead, *examples, Turn(role="user", items=(*shown, Text(text=self.ask.format(**slots)))))


def prompt_of(style: str, language: str, examples: str | None = None) -> Prompt:
    """The prompt of a style; with `examples`, a folder, its examples and its system message stand in place of ours. Refused where the folder holds none, with every broken pair."""
    brought = _brought()[language][style]
    if examples is None:
        return brought
    shown, system = examples_of(Path(examples))
    return Prompt(system=system or brought.system, ask=brought.ask, shown=shown, questions=brought.questions)


@cache
def _brought() -> dict[str, dict[str, Prompt]]:
    table: dict[str, dict[str, Any]] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return {language: {style: _prompt(said) for style, said in styles.items()} for language, styles in table.items()}


def _prompt(said: dict[str, Any]) -> Prompt:
    shown = tuple((one["ask"], one["say"]) for one in said.get("shown", ()))
    return Prompt(system=said["system"].strip(), ask=said["ask"], shown=shown, questions=tuple(said.get("questions", ())))


@cache
def examples_of(folder: Path) -> tuple[tuple[tuple[str, str], ...], str]:
    """The worked examples of a folder, in the order of their names, and its system message or an empty text. Read once."""
    given = sorted(folder.glob(f"*{GIVEN}")) if folder.is_dir() else []
    said = [path.with_name(path.name.removesuffix(GIVEN) + SAID) for path in given]
    problems = [_problem(path, "no such file", "a file beside its example") for path in said if not path.is_file()]
    if not given:
        problems = [_problem(folder, "no examples", f"a folder with NNN{GIVEN} and NNN{SAID}")]
    if problems:
        raise Refused(problems)
    system = folder / SYSTEM
    texts = _texts([*given, *said, *([system] if system.is_file() else [])])
    return tuple(zip(texts[: len(given)], texts[len(given) : 2 * len(given)], strict=True)), "".join(texts[2 * len(given) :])


def _texts(paths: Sequence[Path]) -> list[str]:
    texts: list[str] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            text = path.read_bytes()[: _MOST_BYTES + 1].decode("utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(_problem(path, str(error), "a text in UTF-8"))
            continue
        if not text or len(text) > _MOST_BYTES:
            problems.append(_problem(path, f"{len(text)} characters", f"1 to {_MOST_BYTES}"))
        texts.append(text)
    if problems:
        raise Refused(problems)
    return texts


def _problem(path: Path, found: str, allowed: str) -> Problem:
    return Problem(code="data/examples", place=str(path), found=found, allowed=allowed, fix="mend the folder, or leave `examples` out")

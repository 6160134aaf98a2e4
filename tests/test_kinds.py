"""Families of kinds: the table, third parties, strict reading, and errors that keep their path."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import ValidationError

from sightline import kinds
from sightline.kinds import Config, Family


class Square(Config):
    """A shape."""

    kind: Literal["square"] = "square"
    sides: tuple[int, int] = (1, 1)
    """Width and height."""
    file: Path | None = None
    """Where it lies."""


class Circle(Config):
    """Comes from another package."""

    kind: Literal["circle"] = "circle"


class Impostor(Config):
    """Takes a name that is taken."""

    kind: Literal["square"] = "square"


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> Family:
    """One kind of our own, one of an installed entry point, and an entry point of another family."""
    entries = [EntryPoint("shape.circle", f"{__name__}:Circle", kinds.GROUP), EntryPoint("colour.red", "absent:Red", kinds.GROUP)]
    monkeypatch.setattr(kinds, "entry_points", lambda group: entries if group == kinds.GROUP else [])
    monkeypatch.setattr(EntryPoint, "load", lambda entry: globals()[entry.attr])
    family = Family("shape", default="square")
    family.add(Square)
    return family


def test_the_table_holds_ours_and_theirs(shapes: Family) -> None:
    assert shapes.table() == {"square": Square, "circle": Circle}
    shapes.add(Square)
    with pytest.raises(ValueError, match=r"kind 'square' of shape is taken by .*\.Square"):
        shapes.add(Impostor)


@pytest.mark.parametrize(
    ("value", "config"),
    [
        ({}, Square()),
        ({"kind": "circle"}, Circle()),
        ({"sides": [2, 3], "file": "a/b"}, Square(sides=(2, 3), file=Path("a/b"))),
        ({"kind": "square", "sides": (2, 3)}, Square(sides=(2, 3))),
        (Square(sides=(4, 4)), Square(sides=(4, 4))),
    ],
)
def test_parse(shapes: Family, value: object, config: Config) -> None:
    assert shapes.parse(value) == config


def test_errors_keep_their_path_and_none_is_lost(shapes: Family) -> None:
    class Drawing(Config):
        shapes: list[Annotated[Config, shapes]]
        back: Annotated[Config, shapes] = Square()

    given: dict[str, Any] = {"shapes": [{"sides": [1, "2"], "side": 3}, {"kind": "sqare"}, 7], "back": Impostor()}
    with pytest.raises(ValidationError) as caught:
        Drawing.model_validate(given)
    assert [(error["loc"], error["type"]) for error in caught.value.errors()] == [
        (("shapes", 0, "sides", 1), "int_type"),
        (("shapes", 0, "side"), "extra_forbidden"),
        (("shapes", 1, "kind"), "unknown_kind"),
        (("shapes", 2), "kind_type"),
        (("back",), "kind_class"),
    ]
    assert caught.value.errors()[2]["msg"] == "a kind of shape: circle, square"


def test_definitions_of_the_schema_resolve(shapes: Family) -> None:
    class Drawing(Config):
        shape: Annotated[Config, shapes]
        other: Annotated[Config, shapes] | None = None

    drawn = Drawing.model_json_schema()
    references = {alternative["$ref"] for alternative in drawn["properties"]["shape"]["anyOf"]}
    assert references == {f"#/$defs/{name}" for name in drawn["$defs"]} == {"#/$defs/Square", "#/$defs/Circle"}
    assert Drawing(shape=Square(sides=(2, 3))).model_dump(mode="json") == {"shape": {"kind": "square", "sides": [2, 3], "file": None}, "other": None}

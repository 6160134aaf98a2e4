"""The loader of recipes: strict text, extends, overrides, every problem at once, schema and round trip. Toy configs stand in for the real recipe."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BeforeValidator, model_validator

from sightline.errors import Problem, Refused
from sightline.kinds import Config, Family, located
from sightline.recipe_source import dump, find, heading, load, schema, shipped

TILER = Family("tiler", default="whole")


@TILER.add
class Whole(Config):
    """One view."""

    kind: Literal["whole"] = "whole"
    size: int = 336
    """Side in pixels."""


@TILER.add
class Pyramid(Config):
    """Holds its own family."""

    kind: Literal["pyramid"] = "pyramid"
    scales: tuple[float, ...] = (1.0,)
    """Factors."""
    inner: Annotated[Config, TILER] | None = None
    """What cuts each level."""


class Stage(Config):
    """One stage."""

    name: str
    """Its name in the run."""
    steps: int | Literal["auto"] = "auto"
    """Optimizer steps."""
    rate: float = 1e-3
    """Learning rate."""


class Toy(Config):
    """A recipe."""

    tiler: Annotated[Config, TILER] = Whole()
    """How pictures are cut."""
    tilers: dict[str, Annotated[Config, TILER]] = {}
    """More of them."""
    stages: list[Stage]
    """In order."""
    palette: dict[int, str] = {}
    """Class names."""
    root: Path | None = None
    """A folder."""
    mode: Literal["fast", "exact"] = "fast"
    """How."""
    note: str = ""
    """Anything."""


STAGES = "stages: [{name: align}]\n"


def write(folder: Path, text: str, name: str = "toy.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path | str, *overrides: str) -> list[Problem]:
    with pytest.raises(Refused) as caught:
        load(path, Toy, overrides)
    return caught.value.problems


def test_values_are_typed_as_yaml_1_2_says(tmp_path: Path) -> None:
    text = "stages:\n- {name: 'no', rate: 1e-3, steps: 0x10}\n- {name: 12:30, rate: 3}\nnote: yes\nroot: a/b\npalette: {0: bare, 7: 'null'}\ntiler: {kind: pyramid, scales: [1, .5]}\n"
    recipe = load(write(tmp_path, text), Toy).recipe
    assert [(stage.name, stage.rate, stage.steps) for stage in recipe.stages] == [("no", 1e-3, 16), ("12:30", 3.0, "auto")]
    assert (recipe.note, recipe.root, recipe.palette) == ("yes", Path("a/b"), {0: "bare", 7: "null"})
    assert recipe.tiler == Pyramid(scales=(1.0, 0.5))


def test_every_problem_is_listed_with_its_line_and_the_nearest_name(tmp_path: Path) -> None:
    text = "tiler: {kind: pyrmid}\ntilers:\n  a:\n    kind: pyramid\n    inner:\n      siz: 3\nstages:\n  - name: 3\n    steps: often\n  - rate: fast\nmode: exacct\npalete: {}\n"
    path = write(tmp_path, text)
    problems = {(problem.code, problem.place): problem for problem in refused(path)}
    expected = {
        ("recipe/unknown-kind", 1): ('tiler.kind = "pyrmid"', "pyramid, whole", "did you mean 'pyramid'?"),
        ("recipe/unknown-key", 6): ("tilers.a.inner.siz", "kind, size", "did you mean 'size'?"),
        ("recipe/wrong-type", 8): ("stages.0.name = 3", "text", ""),
        ("recipe/wrong-type", 9): ('stages.0.steps = "often"', "a whole number", ""),
        ("recipe/value", 9): ('stages.0.steps = "often"', "'auto'", ""),
        ("recipe/missing-key", 10): ("no stages.1.name", "Its name in the run.", "add `name:`"),
        ("recipe/wrong-type", 10): ('stages.1.rate = "fast"', "a number", ""),
        ("recipe/value", 11): ('mode = "exacct"', "'fast' or 'exact'", "did you mean 'exact'?"),
        ("recipe/unknown-key", 12): ("palete", "tiler, tilers, stages, palette, root, mode, note", "did you mean 'palette'?"),
    }
    assert {key: (problem.found, problem.allowed, problem.fix) for key, problem in problems.items()} == {
        (code, f"{path}:{line}"): texts for (code, line), texts in expected.items()
    }


def test_a_misspelt_required_key_is_one_problem(tmp_path: Path) -> None:
    [problem] = refused(write(tmp_path, "stges: []\n"))
    assert (problem.code, problem.fix) == ("recipe/unknown-key", "did you mean 'stages'?")


def test_a_union_reports_the_alternative_that_got_furthest(tmp_path: Path) -> None:
    class Step(Config):
        data: str | Stage

    class Steps(Config):
        steps: list[Step]

    with pytest.raises(Refused) as caught:
        load(write(tmp_path, "steps:\n- data: {name: a, rate: no}\n"), Steps)
    assert [(problem.found, problem.allowed) for problem in caught.value.problems] == [('steps.0.data.rate = "no"', "a number")]


def listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


class Chain(Config):
    """Takes short forms, and checks its parts against each other."""

    steps: Annotated[
        list[Annotated[Config, TILER, BeforeValidator(lambda value: {"kind": next(iter(value)), **next(iter(value.values()))})]], BeforeValidator(listed)
    ]
    stages: list[Stage] = []
    main: str = "x"

    @model_validator(mode="after")
    def _fits(self) -> Chain:
        names = [stage.name for stage in self.stages]
        if self.main not in names:
            raise located(
                [
                    f"main: one of {names}",
                    "stages.none.at.all: there",
                    *(f"stages.{name}.rate: less than {rate} {{}}" for name, rate in [("a", 1), ("b", 2)] if name in names),
                    "all wrong",
                ]
            )
        return self


def test_short_forms_keep_their_places(tmp_path: Path) -> None:
    for text, at in [("steps:\n- pyramid:\n    scale: [1]\n", "steps.0.pyramid.scale"), ("steps:\n  pyramid:\n    scale: [1]\n", "steps.pyramid.scale")]:
        path = write(tmp_path, text)
        with pytest.raises(Refused) as caught:
            load(path, Chain)
        assert [(problem.place, problem.found, problem.fix) for problem in caught.value.problems] == [(f"{path}:3", at, "did you mean 'scales'?")]


def test_faults_between_parts_have_places(tmp_path: Path) -> None:
    path = write(tmp_path, "steps: []\nstages:\n- name: b\n  rate: 3.0\n- {name: a}\n")
    with pytest.raises(Refused) as caught:
        load(path, Chain)
    assert [(problem.place, problem.found, problem.allowed) for problem in caught.value.problems] == [
        (f"{path}:1", "no main", "one of ['b', 'a']"),
        (f"{path}:2", "no stages.none.at.all", "there"),
        (f"{path}:5", "no stages.1.rate", "less than 1 {}"),
        (f"{path}:4", "stages.0.rate = 3.0", "less than 2 {}"),
        (f"{path}:1", '{"steps": [], "stages": [{"name": "b", "rate": 3.0}, {"name": "a"}]}', "all wrong"),
    ]


@pytest.mark.parametrize(
    ("text", "code", "line", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "recipe/duplicate-key", 3, "'a' again"),
        ("a: &x [1]\nb: *x\n", "recipe/yaml", 1, "use `extends`"),
        ("a: !!python/object:os.system x\n", "recipe/yaml", 1, "are not read"),
        ("a: [1,\nb: 2", "recipe/yaml", 2, "flow sequence"),
        ("a: 1\n---\nb: 2\n", "recipe/yaml", 2, "another document"),
        ("a: 1\nb: \x01\n", "recipe/yaml", 2, "character"),
        ("[" * 60, "recipe/yaml", 1, "levels of nesting"),
        ("a: 1\n1.5: x\n", "recipe/key", 2, "'1.5'"),
        ("a: 1e999\n", "recipe/number", 1, "1e999"),
        ("a: " + "9" * 5000, "recipe/number", 1, "999"),
        ("- 1\n", "recipe/not-a-mapping", 1, "list"),
        ("", "recipe/not-a-mapping", 1, "NoneType"),
    ],
)
def test_text_that_is_not_a_strict_recipe(tmp_path: Path, text: str, code: str, line: int, said: str) -> None:
    path = write(tmp_path, text)
    [problem] = refused(path)
    assert (problem.code, problem.place) == (code, f"{path}:{line}")
    assert said in problem.found


def test_files_that_are_no_text(tmp_path: Path) -> None:
    large, binary = write(tmp_path, "#" * 300_000), tmp_path / "binary.yaml"
    binary.write_bytes(b"a: \xff")
    assert refused(large)[0].code == "recipe/too-large"
    assert "byte 3 is not UTF-8" in refused(binary)[0].found
    [problem] = refused(tmp_path / "absent.yaml")
    assert problem.code == "recipe/not-found"
    assert "shipped" in problem.found


def test_extends_merges_mappings_and_replaces_the_rest(tmp_path: Path) -> None:
    write(tmp_path, "tiler: {size: 96}\ntilers:\n  a: {kind: whole, size: 1}\n  b: {kind: whole, size: 2}\n" + STAGES, "base.yaml")
    (tmp_path / "variants").mkdir()
    middle = write(tmp_path / "variants", "extends: ../base.yaml\ntilers:\n  a: {kind: pyramid}\n  b: {siz: 3}\n", "middle.yaml")
    path = write(tmp_path, "extends: variants/middle.yaml\nstages: [{name: only}]\n")
    [problem] = refused(path)
    assert (problem.place, problem.found) == (f"{middle}:4", "tilers.b.siz")
    middle.write_text("extends: ../base.yaml\ntilers:\n  a: {kind: pyramid}\n  b: {size: 3}\n")
    loaded = load(path, Toy)
    assert loaded.recipe == Toy(tiler=Whole(size=96), tilers={"a": Pyramid(), "b": Whole(size=3)}, stages=[Stage(name="only")])
    assert (loaded.places["tiler.size"], loaded.places["tilers.b.size"]) == (f"{tmp_path / 'base.yaml'}:1", f"{middle}:4")
    assert loaded.place("stages.0.steps") == f"{path}:2"
    assert [file.name for file in loaded.files] == ["toy.yaml", "middle.yaml", "base.yaml"]


def test_extends_that_leads_nowhere(tmp_path: Path) -> None:
    path = write(tmp_path, "extends: b.yaml\n", "a.yaml")
    [problem] = refused(path)
    assert (problem.code, problem.place) == ("recipe/extends", f"{path}:1")
    write(tmp_path, "extends: a.yaml\n", "b.yaml")
    [problem] = refused(path)
    assert problem.code == "recipe/extends-cycle"
    assert problem.found == f"{path} -> {tmp_path / 'b.yaml'} -> {path}"
    assert refused(write(tmp_path, "extends: [a]\n"))[0].found == "['a']"


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "tiler: {size: 96}\nstages: [{name: align}, {name: instruct}]\n")
    overrides = ["tiler.size=32", "stages.1.rate=1e-4", "stages.align.steps=7", "tilers.new={kind: pyramid, scales: [2]}", "note=#a: b # c", 'mode="exact"']
    recipe = load(path, Toy, overrides).recipe
    assert recipe.stages == [Stage(name="align", steps=7), Stage(name="instruct", rate=1e-4)]
    assert (recipe.tiler, recipe.tilers, recipe.note, recipe.mode) == (Whole(size=32), {"new": Pyramid(scales=(2.0,))}, "#a: b # c", "exact")


def test_overrides_that_cannot_be_put_in(tmp_path: Path) -> None:
    path = write(tmp_path, STAGES + "mode: fast\n")
    problems = refused(path, "mode", "stages.5.rate=1", "mode.x=1", "note=[1", ".a=1")
    assert [problem.place for problem in problems] == ["override: mode", "override: stages.5.rate", "override: mode.x", "override: note", "override: .a=1"]
    assert "0 to 0, align" in problems[1].allowed
    assert "'x' inside 'fast'" in problems[2].found
    [problem] = refused(path, "tiler.size=big")
    assert (problem.place, problem.found) == ("override: tiler.size", 'tiler.size = "big"')


def test_a_config_of_another_family_is_refused() -> None:
    with pytest.raises(ValueError, match="Stage is no tiler"):
        Toy(tiler=Stage(name="a"), stages=[])


def test_schema_is_valid_and_agrees_with_the_loader(tmp_path: Path) -> None:
    drawn = schema(Toy)
    jsonschema.Draft202012Validator.check_schema(drawn)
    validator = jsonschema.Draft202012Validator(drawn)
    good: dict[str, Any] = {
        "extends": "base",
        "tiler": {"kind": "pyramid", "inner": {"kind": "pyramid", "inner": {"size": 3}}},
        "stages": [{"name": "a", "steps": "auto"}],
    }
    assert list(validator.iter_errors(good)) == []
    assert validator.is_valid({"tiler": {"size": 32}}), "a variant may leave the kind to its base"
    for bad in (
        {"tiler": {"kind": "pyrmid"}},
        {"tiler": {"kind": "whole", "scales": [1.0]}},
        {"tiler": {"kind": "pyramid", "inner": {"size": "x"}}},
        {"stges": []},
    ):
        assert not validator.is_valid(bad), bad
        with pytest.raises(Refused):
            load(write(tmp_path, json.dumps(bad)), Toy)
    assert json.loads(json.dumps(drawn)) == drawn


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["1e-3", "no", "null", "12:30", "<<", "=", "0o7", "1_0", "~", " ", "a\nb", "\x85", "a\u2028b"]
)
TILERS = st.recursive(
    st.builds(Whole, size=st.integers(-(10**9), 10**9)),
    lambda inner: st.builds(Pyramid, scales=st.lists(st.floats(allow_nan=False)).map(tuple), inner=st.none() | inner),
    max_leaves=3,
)
RECIPES = st.builds(
    Toy,
    tiler=TILERS,
    tilers=st.dictionaries(TEXTS, TILERS, max_size=2),
    stages=st.lists(
        st.builds(Stage, name=TEXTS, steps=st.integers(0, 99) | st.just("auto"), rate=st.floats(allow_nan=False, allow_infinity=False)), max_size=2
    ),
    palette=st.dictionaries(st.integers(0, 99), TEXTS, max_size=2),
    note=TEXTS,
)


@given(RECIPES)
@settings(max_examples=60, deadline=None)
def test_dump_is_read_back_equal(tmp_path_factory: pytest.TempPathFactory, recipe: Toy) -> None:
    path = write(tmp_path_factory.mktemp("round"), dump(recipe))
    assert load(path, Toy).recipe == recipe


def test_infinities_survive(tmp_path: Path) -> None:
    recipe = load(write(tmp_path, "stages: [{name: a, rate: -.inf}, {name: b, rate: .NaN}]\n"), Toy).recipe
    assert recipe.stages[0].rate == -math.inf
    assert math.isnan(recipe.stages[1].rate)


@given(st.text("ab:-[]{}&*!|>'\"%@#,? \n\t0.", max_size=60) | st.binary(max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str | bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "x.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(Refused) as caught:  # `stages` is never there
        load(path, Toy)
    assert all(problem.place and problem.found for problem in caught.value.problems)


def test_shipped_recipes_are_found_by_name() -> None:
    for name, path in shipped().items():
        assert find(name) == path
        assert heading(path).description, f"{path} says nothing of itself in its first comment"


def test_heading(tmp_path: Path) -> None:
    path = write(tmp_path, "# yaml-language-server: $schema=x\n# A toy\n# of two lines.\n#\n# size: two CPU cores\n\n# not this\na: 1\n")
    assert (heading(path).description, heading(path).size) == ("A toy of two lines.", "two CPU cores")

"""`run`, `plan`, `data` and `chat`: what each hands to the code that does the work, and what it prints of the result."""

from __future__ import annotations

import io
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from sightline.cli.main import main
from sightline.data.engine import Local
from sightline.samples.exchange import Answer


class Result:
    """What `run`, `plan` and `show` return."""

    def __str__(self) -> str:
        return "in words"

    def record(self) -> dict[str, str]:
        return {"in": "JSON"}


class Chosen:
    """What `choose` returns."""

    sources = "sources"

    def __str__(self) -> str:
        return "src: dota (labels)"

    def record(self) -> dict[str, Any]:
        return {"formats": ["dota"]}


class Store:
    """What `read_sets` returns."""

    id = "abc"

    def counts(self) -> dict[str, int]:
        return {"kept": 2, "quarantined": 1, "refused": 0}


class Replies:
    """An answerer that repeats what it was asked."""

    def ask(self, pictures: list[Path], history: list[tuple[str, str]], question: str, decoding: Any) -> Answer:
        text = f"{[path.name for path in pictures]} {len(history)} {question} {decoding.max_tokens}"
        return Answer(key="k", sample="s", weights="w", text=text)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Puts recorders in place of the modules that do the work."""
    seen: list[tuple[Any, ...]] = []
    stand_ins: dict[str, types.ModuleType] = {}

    def recorder(name: str, result: Any) -> Any:
        return lambda *given, **named: seen.append((name, *given, named)) or result

    for module, name, result in [
        ("sightline.run", "run", Result()),
        ("sightline.plan", "plan", Result()),
        ("sightline.preview", "show", Result()),
        ("sightline.data.reading", "choose", Chosen()),
        ("sightline.data.reading", "read_sets", Store()),
        ("sightline.evaluate.answering", "load_answerer", Replies()),
    ]:
        stand_in = stand_ins.setdefault(module, types.ModuleType(module))
        stand_in.__dict__[name] = recorder(name, result)
        monkeypatch.setitem(sys.modules, module, stand_in)
    return seen


def test_run_and_plan(calls: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "recipes/toy.yaml", "a.b=1", "--out", "here", "c=2"]) == 0
    assert main(["run", "toy"]) == 0
    assert main(["plan", "toy", "--model-only", "a=1", "--json"]) == 0
    assert calls == [
        ("run", "recipes/toy.yaml", {"out": Path("here"), "overrides": ["a.b=1", "c=2"], "engine": "local"}),
        ("run", "toy", {"out": Path("runs/toy"), "overrides": [], "engine": "local"}),
        ("plan", "toy", {"overrides": ["a=1"], "model_only": True}),
    ]
    words, json_text = capsys.readouterr().out.split("{")
    assert (words, json.loads("{" + json_text)) == ("in words\nin words\n", {"in": "JSON"})


def test_data(calls: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--on_problem", "quarantine", "--limit", "5", "--format", "dota", "--workers", "3", "--fresh"]
    assert main(["data", "read", "src", "out", *words]) == 0
    assert capsys.readouterr().out == "src: dota (labels)\nout: 2 kept, 1 quarantined, 0 refused\n"
    assert main(["data", "show", "out", "--recipe", "toy", "--page", "p.html"]) == 0
    assert calls == [
        ("choose", Path("src"), "dota", {}),
        ("read_sets", "sources", Path("out"), {"on_problem": "quarantine", "limit": 5, "engine": Local(workers=3), "fresh": True}),
        ("show", Path("out"), {"recipe": "toy", "model": None, "page": Path("p.html")}),
    ]
    capsys.readouterr()
    assert main(["data", "read", "src", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"store": "out", "id": "abc", "formats": ["dota"], "kept": 2, "quarantined": 1, "refused": 0}
    assert main(["data", "read", "src", "out", "--ray-address", "auto"]) == 1
    assert "an address of Ray with the local engine" in capsys.readouterr().err


def test_chat_with_one_question(calls: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "a.png"
    picture.touch()
    assert main(["chat", "RUN", "--image", str(picture), "what is this?", "--max_tokens", "7"]) == 0
    assert capsys.readouterr().out == "['a.png'] 0 what is this? 7\n"
    assert main(["chat", "RUN", "what?", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "[] 0 what? 64"
    assert main(["chat", "RUN", "--image", "no-1.png", "--image", "no-2.png", "what?"]) == 2
    said = capsys.readouterr().err
    assert "no-1.png" in said
    assert "no-2.png" in said
    assert [call[:2] for call in calls] == [("load_answerer", Path("RUN"))] * 2, "missing pictures are told before the model is loaded"


def test_a_conversation(calls: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "a.png"
    picture.touch()
    lines = ["one", f"/image {picture}", "", "two", "/image absent.png", "/wave", "/reset", "three", "/quit", "never"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    assert main(["chat", "RUN"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["[] 0 one 64", "['a.png'] 1 two 64", "[] 0 three 64"]
    assert "usage/no-picture at absent.png" in printed.err
    assert "/reset forgets everything" in printed.err
    assert len(calls) == 1

"""The frame of the command line: verbs, help, exit codes, JSON, interruption, start-up time."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from sightline.cli import main as frame
from sightline.cli.main import VERBS, main
from sightline.errors import Problem, Refused

START = "import sys; from sightline.cli.main import main; sys.exit(main())"


def verb_that(monkeypatch: pytest.MonkeyPatch, action: object) -> None:
    """Puts a verb `try` in the table, whose action is `action`."""

    def arguments(parser: frame.Parser) -> None:
        parser.add_argument("overrides", nargs="*")
        parser.add_argument("--out-dir", default="x")
        parser.add_argument("--json", action="store_true")
        parser.set_defaults(action=action)

    monkeypatch.setattr(frame, "import_module", lambda name: type("module", (), {"arguments": staticmethod(arguments)}))
    monkeypatch.setitem(VERBS, "try", frame.Verb("any:arguments", "for a test"))


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*verb.split(), "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: sightline {verb} ")
    assert VERBS[verb].help.split()[0] in said


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_overview_lists_all_verbs(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    said = capsys.readouterr().out
    assert all(f"  {verb} " in said for verb in VERBS)


def test_a_noun_lists_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert (main(["recipe"]), main(["recipe", "--help"])) == (2, 0)
    said = capsys.readouterr().out
    assert "recipe ls" in said
    assert "data read" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["chta"], "did you mean 'chat'?"),
        (["recipe", "lst"], "did you mean 'recipe ls'?"),
        (["data", "read", "only-one"], "the following arguments are required: OUT"),
        (["data", "read", "a", "b", "--limit", "0"], "'0' is not a whole number above 0"),
        (["data", "read", "a", "b", "--on-problem", "ignore"], "choose from 'refuse', 'quarantine'"),
        (["run", "r", "--ou", "x"], "--ou"),
    ],
)
def test_mistakes_in_the_command(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""
    assert main([*words, "--json"]) == 2
    [problem] = json.loads(capsys.readouterr().out)["problems"]
    assert problem["code"].startswith("usage/")


def test_both_spellings_of_a_flag_and_overrides_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    verb_that(monkeypatch, lambda arguments: seen.append((arguments.out_dir, arguments.overrides)) or 0)
    assert main(["try", "a_b=1", "--out_dir", "d_e", "c=--f_g"]) == 0
    assert main(["try", "--out-dir=d_e"]) == 0
    assert seen == [("d_e", ["a_b=1", "c=--f_g"]), ("d_e", [])]


@pytest.mark.parametrize(("codes", "exit_code"), [(["recipe/unknown-key"], 2), (["store/torn"], 1), (["recipe/value", "store/torn"], 1)])
def test_refusals_are_told_whole(codes: list[str], exit_code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    problems = [Problem(code=code, place=f"file:{line}", found="this", allowed="that", fix="do so") for line, code in enumerate(codes)]

    def refuse(_: object) -> int:
        raise Refused(problems)

    verb_that(monkeypatch, refuse)
    assert main(["try"]) == exit_code
    said = capsys.readouterr().err
    assert all(str(problem) in said for problem in problems)
    assert main(["try", "--json"]) == exit_code
    assert json.loads(capsys.readouterr().out) == {"problems": [problem.record() for problem in problems]}


def test_interruption_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    verb_that(monkeypatch, interrupt)
    assert main(["try"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> int:
        raise AssertionError("ours")

    verb_that(monkeypatch, fail)
    with pytest.raises(AssertionError, match="ours"):
        main(["try"])


def test_a_closed_pipe_is_quiet() -> None:
    program = f"import os, sys; read, write = os.pipe(); os.close(read); os.dup2(write, 1); {START}"
    ended = subprocess.run([sys.executable, "-c", program, "--help"], stderr=subprocess.PIPE, check=False, timeout=20)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_help_starts_fast_and_imports_nothing_heavy() -> None:
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", START, "--help"], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5
    heavy = "import sys; from sightline.cli.main import VERBS, main; [main([*verb.split(), '--help']) for verb in VERBS]; print({'torch', 'pydantic', 'numpy', 'yaml'} & set(sys.modules), file=sys.stderr)"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stderr == "set()\n"

"""The graph of a run: everything is built, nothing is built twice, a change runs again what follows from it, and a kill leaves nothing half written."""

from __future__ import annotations

import html.parser
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sightline.errors import Refused
from sightline.model import directory
from sightline.run import RunResult, run
from sightline.run_events import Events
from sightline.samples.store import Store

TINY = Path(__file__).parent / "recipes" / "tiny.yaml"
COMMAND = [sys.executable, "-c", "import sys; from sightline.cli.main import main; sys.exit(main())"]
DATA = [f"data/{name}" for name in ("scenes", "held-out", "captions", "notes", "questions", "test-questions")]
STAGES = ["stages/see", "stages/read", "stages/align", "stages/instruct"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunResult, Path]]:
    """A whole run, once; tests that change it take a copy."""
    threads = torch.get_num_threads()
    out = tmp_path_factory.mktemp("runs") / "tiny"
    yield run(TINY, out), out
    torch.set_num_threads(threads)


@pytest.fixture
def copied(finished: tuple[RunResult, Path], tmp_path: Path) -> Path:
    """A copy of the finished run with its times."""
    return Path(shutil.copytree(finished[1], tmp_path / "run", copy_function=shutil.copy2))


def states(result: RunResult) -> dict[str, str]:
    return {node.name: node.state for node in result.nodes}


def done(result: RunResult) -> set[str]:
    return {name for name, state in states(result).items() if state == "done"}


def artifacts(out: Path) -> dict[str, tuple[int, bytes]]:
    """Time and bytes of every file that a node made."""
    files = [path for folder in ("made", "data", "tokenizer", "features", "stages", "evaluate") for path in (out / folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(out)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


class Links(html.parser.HTMLParser):
    """What a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href")]


def test_everything_is_built(finished: tuple[RunResult, Path]) -> None:
    result, out = finished
    assert done(result) == {*DATA, "made/scenes", "made/held-out", "tokenizer/model", *STAGES, "evaluate/questions"}
    graph = json.loads((out / "graph.json").read_text())
    assert [node["name"] for node in graph] == [node.name for node in result.nodes]
    assert all((out / node["artifact"] / "lineage.json").is_file() for node in graph)
    assert list(out.rglob(".tmp-*")) == []
    model, processor, weights = directory.load(out / "stages" / "04-instruct" / "model")
    assert directory.weights_id(directory.part_ids(model)) == weights
    assert processor.tokenizer.size <= 400
    assert directory.model_folder(out).parent.name == "04-instruct"
    adapter = out / "stages" / "04-instruct" / "model" / "adapter"
    assert sorted(path.name for path in adapter.iterdir()) == ["language_model.json", "language_model.safetensors"]


def test_a_part_that_did_not_change_is_the_same_file(finished: tuple[RunResult, Path]) -> None:
    models = [folder / "model" for folder in sorted((finished[1] / "stages").iterdir())]
    encoder = {(model / "encoders.vision-00001-of-00001.safetensors").stat().st_ino for model in models}
    language = [(model / "language_model-00001-of-00001.safetensors").stat().st_ino for model in models]
    assert len(encoder) == 1
    assert (language[0] != language[1], language[1] == language[2], language[2] != language[3]) == (True, True, True)


def test_the_report_is_whole_and_needs_no_network(finished: tuple[RunResult, Path]) -> None:
    result, out = finished
    page = (out / "report.html").read_text()
    links = Links()
    links.feed(page)
    assert links.found
    assert all(link.startswith(("data:", "#")) for link in links.found)
    facts = json.loads((out / "report.json").read_text())
    assert [stage["name"] for stage in facts["stages"]] == ["see", "read", "align", "instruct"]
    assert {"shuffled pictures", "no picture", "commonest answer", "thumbnail probe"} <= facts["benchmarks"]["questions"]["metrics"]["all"]["controls"].keys()
    assert facts["benchmarks"]["questions"]["metrics"]["all"]["value"] == result.scores["questions"]["all"]
    assert facts["worst"]
    assert all(example["picture"] for example in facts["worst"])
    assert facts["lineage"]["stages/instruct"]
    [command] = facts["commands"]
    assert f"sightline chat {out}" in command
    assert all(Path(word).exists() for word in shlex.split(command) if word.startswith(str(out)))
    assert all(stage in page for stage in ("see", "read", "align", "instruct"))
    assert "Worst answers" in page


def test_what_answering_took_is_counted_in_the_events_and_on_the_page(finished: tuple[RunResult, Path]) -> None:
    out = finished[1]
    [event] = [event for event in map(json.loads, (out / "events.jsonl").read_text().splitlines()) if event["event"] == "answered"]
    assert event["evaluation"] == "questions" and set(event["requests"]) == {"model", "shuffled pictures", "no picture"}
    assert sum(event["requests"].values()) == event["questions"] + event["known"] > 0
    assert event["shared"] + sum(event["alone"].values()) == event["questions"] and 0 < event["computed_tokens"] <= event["prompt_tokens"]
    page = (out / "report.html").read_text()
    assert f"{event['questions']:,} questions were put to the model; {event['shared']:,} shared the beginning of their prompt" in page
    assert f"{event['known']:,} of them were answered before, or are the same as another" in page


def test_a_second_run_does_nothing_and_changes_no_byte(copied: Path) -> None:
    before = artifacts(copied)
    result = run(TINY, copied)
    assert set(states(result).values()) == {"skipped"}
    assert artifacts(copied) == before
    assert result.scores["questions"].keys() >= {"all"}


def test_a_changed_rate_of_a_stage_runs_it_and_what_follows(copied: Path) -> None:
    before = artifacts(copied)
    result = run(TINY, copied, ["stages.align.train.connector.learning_rate=2e-3"])
    assert done(result) == {"stages/align", "stages/instruct", "evaluate/questions"}
    after = artifacts(copied)
    changed = {name for name in before if before[name] != after[name]}
    assert changed
    assert all(name.startswith(("stages/03-", "stages/04-", "evaluate/")) for name in changed)


@pytest.mark.parametrize(
    ("override", "again"),
    [
        ("data.notes.then.0.notes.per_picture=3", {"data/notes", *STAGES[1:], "evaluate/questions"}),
        ("data.test-questions.then.0.questions.per_picture=3", {"data/test-questions", "evaluate/questions"}),
        ("evaluate.questions.benchmark.questions.max_tokens=3", {"evaluate/questions"}),
        ("stages.instruct.steps=4", {"stages/instruct", "evaluate/questions"}),
        ("threads=2", set()),
        ("writers=[tensorboard]", set()),
    ],
)
def test_a_change_runs_again_what_depends_on_it(copied: Path, override: str, again: set[str]) -> None:
    assert done(run(TINY, copied, [override])) == again


def test_the_same_recipe_gives_the_same_weights_elsewhere(finished: tuple[RunResult, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    again = run(TINY, Path("elsewhere"))
    assert {node.name: node.id for node in again.nodes} == {node.name: node.id for node in finished[0].nodes}


def test_a_stage_that_the_recipe_no_longer_has_is_not_chatted_with(copied: Path) -> None:
    stages = "stages=[{name: read, objective: text, data: {notes: 1.0}, train: {language_model: {learning_rate: 1e-3}}, batch: 4, steps: 3}]"
    run(TINY, copied, [stages])
    assert (copied / "stages" / "04-instruct" / "model").is_dir(), "what was trained is not thrown away"
    assert directory.model_folder(copied).parent.name == "01-read"


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["data/captions", "stages/04-instruct/model"])
def test_a_killed_run_goes_on(finished: tuple[RunResult, Path], tmp_path: Path, folder: str) -> None:
    """Killed by SIGKILL where the writing of an artifact ends: between the last byte and the renaming."""
    kill = (
        "import os, signal, sys; from pathlib import Path; import sightline.lineage as lineage\n"
        "sync = lineage._sync\n"
        f"lineage._sync = lambda path: os.kill(os.getpid(), signal.SIGKILL) if '.tmp-' in str(path) and {folder.rpartition('/')[0]!r} in str(path)"
        f" and {Path(folder).name!r} in str(path) else sync(path)\n"
        "from sightline.run import run; run(sys.argv[1], Path(sys.argv[2]))"
    )
    out = tmp_path / "run"
    shutil.copytree(finished[1] / "made", out / "made", copy_function=shutil.copy2)
    ended = subprocess.run([sys.executable, "-c", kill, str(TINY), str(out)], capture_output=True, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert not (out / folder).exists()
    assert list(out.rglob(".tmp-*"))
    result = run(TINY, out)
    assert list(out.rglob(".tmp-*")) == []
    assert {node.name: node.id for node in result.nodes if not node.name.startswith("evaluate")} == {
        node.name: node.id for node in finished[0].nodes if not node.name.startswith("evaluate")
    }
    assert states(result)["made/scenes"] == "skipped"


def test_killed_in_the_middle_of_training(finished: tuple[RunResult, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    for folder in ("made", "data", "tokenizer"):
        shutil.copytree(finished[1] / folder, out / folder, copy_function=shutil.copy2)
    started = subprocess.Popen(
        [*COMMAND, "run", str(TINY), "stages.read.steps=100000", "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not any(event.get("stage") == "read" and event["event"] == "step" for event in _events(out)):
        time.sleep(0.1)
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    with (out / "events.jsonl").open("a") as stream:
        stream.write('{"event": "st')
    result = run(TINY, out)
    assert states(result)["stages/see"] == "skipped"
    assert {node.name: node.id for node in result.nodes}["stages/instruct"] == {node.name: node.id for node in finished[0].nodes}["stages/instruct"]
    facts = json.loads((out / "report.json").read_text())
    assert [point[0] for point in facts["stages"][1]["losses"]["answer"]] == [0, 2], "the curve is that of the stage that ended"


def _events(out: Path) -> list[dict[str, Any]]:
    return Events(out / "events.jsonl").read() if (out / "events.jsonl").is_file() else []


def test_parts_from_another_model_and_from_another_run(finished: tuple[RunResult, Path], tmp_path: Path) -> None:
    recipe = tmp_path / "two.yaml"
    text = TINY.read_text()
    head, rest = text.split("data:\n", 1)
    model = head.split("model:\n", 1)[1]
    talker, looker = model.split("  text_encoder:")
    encoder = looker.split("  tokenizer")[0]
    eyes = model.split("  connector:")[0]
    tokenizer = "    tokenizer: {train_on: [captions, questions], size: 400}\n"
    nested = lambda lines: "".join(f"  {line}\n" for line in lines.rstrip().splitlines())  # noqa: E731
    models = f"models:\n  eyes:\n{nested(eyes)}{nested('  text_encoder:' + encoder)}{tokenizer}  talker:\n{nested(talker)}{tokenizer}"
    stages = (
        "stages:\n"
        "  - {name: see, model: eyes, objective: contrastive, data: {captions: 1.0}, train: {encoders: {learning_rate: 1.0e-3}, text_encoder: {learning_rate: 1.0e-3}}, batch: 6, steps: 3}\n"
        "  - {name: talk, model: talker, objective: answer-likelihood, data: {questions: 1.0}, train: {connector: {learning_rate: 1.0e-3}}, batch: 4, steps: 3,\n"
        f"     init: {{encoders: see, language_model: {finished[1]}}}}}\n"
    )
    recipe.write_text(head.split("model:\n")[0] + models + "data:\n" + rest.split("stages:\n")[0] + stages)
    run(recipe, tmp_path / "run")
    see, talk = (directory.read_tensors(tmp_path / "run" / "stages" / name / "model") for name in ("01-see", "02-talk"))
    run_before = directory.read_tensors(finished[1] / "stages" / "04-instruct" / "model")
    assert all(torch.equal(talk[name], tensor) for name, tensor in see.items() if name.startswith("encoders."))
    assert all(torch.equal(tensor, run_before[name]) for name, tensor in talk.items() if name.startswith("language_model."))
    assert not any(name.startswith("text_encoder.") for name in talk)


def test_what_is_not_there_is_told_before_any_work(tmp_path: Path) -> None:
    overrides = [
        "data.captions={read: {path: nowhere/a}}",
        "data.notes={read: [{path: nowhere/b, format: dota}]}",
        "stages.see.init={encodrs: see, encoders: instruct, text_encoder: runs/none}",
        "stages.see.micro_batch=2",
        "stages.see.objective={kind: contrastive, tags: {words: [road]}}",
        "stages.align.train={conector: {learning_rate: 1e-3}}",
        "model.language_model.checkpoint=nobody/nothing",
    ]
    with pytest.raises(Refused) as refused:
        run(TINY, tmp_path / "run", overrides)
    told = [(p.code, p.place, p.found) for p in refused.value.problems]
    assert told == [
        ("run/absent-data", "override: data.captions", "data.captions: nowhere/a is not there"),
        ("run/absent-data", "override: data.notes", "data.notes: nowhere/b is not there"),
        ("run/absent-weights", "override: model.language_model.checkpoint", "nobody/nothing is not on this machine"),
        ("run/no-such-part", "override: stages.see.init", "stages.see.init: encodrs"),
        ("run/no-origin", "override: stages.see.init", "stages.see.init.encodrs: see does not come before it"),
        ("run/no-origin", "override: stages.see.init", "stages.see.init.encoders: instruct does not come before it"),
        ("run/no-origin", "override: stages.see.init", "stages.see.init.text_encoder: runs/none"),
        ("run/cannot-split", "override: stages.see.micro_batch", "stages.see.micro_batch: 2"),
        ("run/no-tags", "override: stages.see.objective", "stages.see: a tag term, and a text_encoder without tags"),
        ("run/no-such-part", "override: stages.align.train", "stages.align.train: conector"),
    ]
    assert all(problem.severity == "refuse" and problem.fix for problem in refused.value.problems)
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_is_told_before_any_work(tmp_path: Path) -> None:
    blind = ["model.connector=null", "model.language_model=null", "model.tokenizer={path: nowhere}"]
    with pytest.raises(Refused) as refused:
        run(TINY, tmp_path / "run", blind)
    told = {(p.code, p.found.split(":")[0]) for p in refused.value.problems}
    assert {("run/cannot", "stages.read"), ("run/cannot", "stages.align"), ("run/cannot", "evaluate.questions")} <= told
    assert ("run/no-tokenizer", "no tokenizer.json in nowhere") in told
    assert all(str(TINY) in problem.place or problem.place.startswith("override: ") for problem in refused.value.problems)


def test_rows_that_were_left_out_stand_in_the_report(copied: Path) -> None:
    broken = copied.parent / "broken.jsonl"
    lines = [{"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]}, {"messages": [{"role": "user"}]}]
    broken.write_text("".join(json.dumps(line) + "\n" for line in lines))
    over = [f"data.more={{read: {{path: {broken}, format: openai-messages}}, on_problem: quarantine}}"]
    run(TINY, copied, over)
    problems = json.loads((copied / "report.json").read_text())["problems"]
    assert problems
    assert all(str(broken) in problem["place"] for problem in problems)


def test_events_survive_separators_and_torn_lines(tmp_path: Path) -> None:
    events = Events(tmp_path / "events.jsonl")
    events.write({"event": "said", "text": "a\u2028b\x85c"})
    with (tmp_path / "events.jsonl").open("a") as stream:
        stream.write('{"event": "to')
    Events(tmp_path / "events.jsonl").write({"event": "after"})
    assert [(event["event"], event.get("text")) for event in events.read()] == [("said", "a\u2028b\x85c"), ("after", None)]


def test_the_command_tells_its_result_as_json(copied: Path) -> None:
    ended = subprocess.run([*COMMAND, "run", str(TINY), "--out", str(copied), "--json"], capture_output=True, text=True, check=True, cwd=os.sep)
    told = json.loads(ended.stdout)
    assert {node["state"] for node in told["nodes"]} == {"skipped"}
    assert told["scores"]["questions"].keys() >= {"all"}
    assert Path(told["report"]).is_file()


def test_a_stage_with_a_format_and_a_tiler_of_its_own(tmp_path: Path) -> None:
    own = ["model.chat=vicuna", "stages.align.chat=caption", "stages.align.tiler={kind: whole, size: 16, fit: squash}"]
    run(TINY, tmp_path / "run", [*own, "data.questions.source=captions", "data.questions.then=[]", "evaluate={}"])
    chats = {stage.name: directory.load(stage / "model")[1].chat.name for stage in sorted((tmp_path / "run" / "stages").iterdir())}
    assert [chats[name] for name in sorted(chats)] == ["vicuna", "vicuna", "caption", "vicuna"]
    align = directory.load(tmp_path / "run" / "stages" / "03-align" / "model")[1]
    assert align.config.tiler is not None and align.config.tiler.model_dump()["size"] == 16
    words = align.tokenizer.decode(align.encode(Store.open(tmp_path / "run" / "data" / "captions")[0]).ids.tolist(), controls=True)
    assert "USER" not in words and words.endswith("\n")

"""The failure report of a run: gathered from its answers, drawn, compared, reviewed and corrected, without a model."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sightline.cli.main import main
from sightline.data.operators import OPERATOR
from sightline.data.reading import READER
from sightline.data.scenes import Scenes
from sightline.data.steps import make_layout, read_and_apply
from sightline.errors import Refused
from sightline.evaluate.answers import AnswerFile
from sightline.evaluate.asking import shuffled_pictures
from sightline.evaluate.benchmark_kinds.grounding import RotatedMap
from sightline.evaluate.benchmarks import Questions
from sightline.evaluate.failures.evidence import TextScores
from sightline.failure_asking import text_before_and_after
from sightline.failure_page import markdown
from sightline.failure_report import ask_probes, ask_store, asked_of, gather, name_of, named_apart, read_answers, report, score_text
from sightline.failure_review import KEY, PAGE, Verdict, chosen, questions_of, read_verdicts, summary, write_corrections, write_review
from sightline.lineage import write_json
from sightline.samples.codec_kinds.rotated_codecs import XyhwtCodec
from sightline.samples.exchange import Answer, Request
from sightline.samples.sample import Origin, Region, Regions, RotatedBox, Sample, Text, Turn
from sightline.samples.store import Store
from sightline.training_rows import TrainingRows

TINY = Path(__file__).parent / "recipes" / "tiny.yaml"
Says = Callable[[str, str], str]
"""(question, right answer) -> what is answered."""


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the tiny recipe, and the recipe: a run that was neither trained nor evaluated."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    readers = [READER.parse({"kind": kind}) for kind in ("karpathy-captions", "label-masks", "dota")]
    for name, seed in (("scenes", 1), ("held-out", 2)):
        layout = out / "made" / name
        make_layout(Scenes(count=12, seed=seed, test_share=0.0, val_share=0.0), layout)
        read_and_apply([(reader, layout) for reader in readers], None, [], out / "data" / name, on_problem="refuse", seed=0, config="")
    for name, source in (("questions", "scenes"), ("captions", "scenes"), ("notes", "scenes"), ("test-questions", "held-out")):
        kind: dict[str, Any] = {"kind": "captions"} if name == "captions" else {"kind": name.removeprefix("test-"), "per_picture": 6}
        read_and_apply([], Store.open(out / "data" / source), [OPERATOR.parse(kind)], out / "data" / name, on_problem="refuse", seed=0, config="")
    shutil.copy(TINY, out / "recipe.yaml")
    return out


def evaluated(laid: Path, out: Path, says: Says, other: Says | None = None, finish: str = "stop") -> Path:
    """A run whose model answers so, and about other pictures as `other` says."""
    shutil.copytree(laid, out)
    store = Store.open(out / "data" / "test-questions")
    benchmark = Questions(data="test-questions", max_tokens=8).build(store[int(row)] for row in store.kept)
    right = {question.request.sample.id: question.right[0] for question in benchmark.questions}
    file = AnswerFile(out / "evaluate" / "questions" / "answers.jsonl")

    def answered(requests: Iterable[Request], by: Says, name: str) -> list[Answer]:
        told = []
        for request in requests:
            text = by(request.sample.text(-1), right[request.sample.id])
            told.append(Answer(key=f"{name}:{request.sample.id}", sample=request.sample.id, weights="w", text=text, finish=finish, logps=(-0.25,)))  # pyright: ignore[reportArgumentType]
            file.append(told[-1])
        return told

    requests = list(benchmark.requests())
    scores = benchmark.score(answered(requests, says, "model")).record()
    controls = {"shuffled pictures": benchmark.score(answered(shuffled_pictures(requests, 0), other or says, "shuffled")).record()}
    write_json(out / "evaluate" / "questions" / "scores.json", {"model": scores, "controls": controls})
    return out


def right(question: str, answer: str) -> str:
    return answer


def never(question: str, answer: str) -> str:
    return "something else"


def endless(question: str, answer: str) -> str:
    return "a pond and " * 9


def test_a_run_is_gathered_with_its_controls_its_annotations_and_what_it_was_trained_on(laid: Path, tmp_path: Path) -> None:
    evidence, rows = gather(evaluated(laid, tmp_path / "good", right, never))
    assert len(evidence.cases) > 40 and {case.evaluation for case in evidence.cases} == {"questions"}
    for case in evidence.cases:
        assert case.answer.text == case.right[0] and case.score == 1 and case.answer.logps == (-0.25,)
        assert case.shuffled is not None and case.shuffled.text == "something else" and case.shuffled_score == 0
        assert case.annotations and case.reply is not None and not case.asked.annotations, "what is known is beside what was asked, not in it"
    assert evidence.seen_kinds is not None and "presence" in evidence.seen_kinds and {"caption"} & evidence.seen_kinds
    made = report(tmp_path / "good", evidence, rows)
    assert not made.found() and {one.code: one.state for one in made.failures}["failure/no-picture"] == "clear"


def test_shown_answers_name_the_training_rows_most_like_them(laid: Path, tmp_path: Path) -> None:
    run = evaluated(laid, tmp_path / "bad", endless, finish="length")
    made = report(run, *gather(run))
    codes = [one.code for one in made.found()]
    assert {"failure/endless", "failure/repetition", "failure/no-picture", "failure/format"} <= set(codes)
    case = next(one.case for failure in made.found() for one in failure.worst if one.case.kind == "count")
    near = made.near["questions", case.name]
    assert len(near) == 3 and {one.row.kind for one in near} == {"count"} and near[0].words == 1 and near[0].looks is not None
    assert near[0].row.question == case.question and near[0].row.answer == case.right[0]
    assert [one.words + (one.looks or 0) for one in near] == sorted((one.words + (one.looks or 0) for one in near), reverse=True)
    named = Store.open(run / "data" / near[0].row.store)[near[0].row.row]
    assert named.id == near[0].row.id and near[0].row.question in [named.text(turn) for turn in range(len(named.turns))]
    json.dumps(made.record(), allow_nan=False)


def test_the_verb_writes_a_page_and_tells_codes(laid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = evaluated(laid, tmp_path / "good", right, never), evaluated(laid, tmp_path / "bad", endless, finish="length")
    assert main(["report", str(good), "--failures", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["found"] == []
    assert main(["report", str(bad), "--failures", "--json", "--against", str(good)]) == 1
    told = json.loads(capsys.readouterr().out)
    assert "failure/endless" in told["found"] and told["comparison"]["turned"]["worse"] > 40 and told["comparison"]["rows"][0]["verdict"] == "worse"
    page = (bad / "failures" / "failures.html").read_text()
    assert page.count("data:image/") > 20 and "prefers-color-scheme" in page and "Against good" in page and not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert json.loads((bad / "failures" / "failures.json").read_text())["found"] == told["found"]
    text = (bad / "failures" / "failures.md").read_text()
    assert all(f"`{code}`" in text for code in told["found"]) and "## Against good" in text
    assert main(["report", str(bad), "--failures", "--markdown"]) == 1
    assert capsys.readouterr().out.startswith("# What goes wrong: bad")
    assert main(["report", str(bad), "--failures"]) == 1
    assert "failure/endless" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--failures"], "no recipe.yaml"),
        (["--against", "x"], "--against without --failures"),
        (["--failures", "--watch"], "--watch beside"),
        (["--failures", "--data", "x"], "without --ask"),
        (["--corrections", "x"], "--corrections without --verdicts"),
        (["--verdicts", "x", "--rows", "y"], "--rows without --corrections"),
        (["--failures", "--review", "0"], "--review 0"),
        (["--failures", "--set", "repetition.mots=0.1"], "repetition.most"),
        (["--failures", "--set", "repetition.most=2"], "less than or equal to 1"),
        (["--verdicts", "absent.json"], "review-key.json"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path), *words]) == 2
    assert said in capsys.readouterr().err


def test_limits_and_evaluations_can_be_named(laid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = evaluated(laid, tmp_path / "run", lambda question, answer: "yes" if answer in ("yes", "no") else answer, never)
    assert main(["report", str(run), "--failures", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["found"] == ["failure/hallucination"]
    lenient = ["--set", "hallucination.agreed=1"]
    assert main(["report", str(run), "--failures", "--json", *lenient]) == 0
    assert json.loads(capsys.readouterr().out)["found"] == []
    assert main(["report", str(run), "--failures", "--generic", "absent"]) == 2
    assert "absent" in capsys.readouterr().err


def test_a_benchmark_of_regions_is_gathered_with_the_boxes_that_are_there(laid: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(laid, run)
    config = RotatedMap(path=str(run / "data" / "held-out"))
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(text + f"  boxes: {{benchmark: {{rotated-map: {{path: {config.path}}}}}, controls: false}}\n")
    benchmark = config.build()
    file = AnswerFile(run / "evaluate" / "boxes" / "answers.jsonl")
    everywhere = Regions(regions=(Region(shape=RotatedBox(cx=5, cy=5, w=4, h=2, theta=0)),))
    for number, row in enumerate(benchmark.region_rows()):
        said = Regions(regions=row.regions) if row.regions else everywhere
        file.append(Answer(key=str(number), sample=row.index, weights="w", text=f"boxes {number}", items=(said,)))
    write_json(run / "evaluate" / "boxes" / "scores.json", {"model": benchmark.score(read_answers(file.path)).record(), "controls": {}})
    cases = gather(run)[0].cases
    assert len(cases) == len(benchmark.region_rows()) and all(case.asks_boxes and not case.right for case in cases)
    assert all(case.found_boxes == (case.wanted_boxes or case.found_boxes[:1]) for case in cases)
    failures = {one.code: one for one in report(run, *gather(run)).failures}
    assert failures["failure/region-missed"].rate.value == 0 and failures["failure/region-extra"].count == sum(not case.wanted_boxes for case in cases) > 0


# review


def test_a_review_hides_whose_answer_is_whose(laid: Path, tmp_path: Path) -> None:
    first, other = (gather(evaluated(laid, tmp_path / name, says, never)) for name, says in (("secret-a", right), ("secret-b", never)))
    made = report(tmp_path / "secret-a", *first)
    cases = chosen(made.evidence.written, made.failures, 10, seed=3)
    folder = tmp_path / "review"
    page = write_review(folder, cases, {"secret-b": other[0].written}, "secret-a", seed=3).read_text()
    key = json.loads((folder / KEY).read_text())
    assert "secret" not in page and len(key["items"]) == 20 and page.count('class="item"') == 20
    assert re.findall(r'class="item" id="(\w+)"', page) == list(key["items"]), "the page has the order of the key"
    names = [one["run"] for one in key["items"].values()]
    assert sorted(names) == ["secret-a"] * 10 + ["secret-b"] * 10 and names != sorted(names)
    assert not re.search(r"https?://", re.sub(r"data:[^\"]*", "", page)), "it works offline"
    write_review(folder, cases, {}, "secret-a", seed=4)
    assert json.loads((folder / KEY).read_text())["review"] != key["review"]


def test_verdicts_come_to_shares_and_to_rows_that_correct(laid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = evaluated(laid, tmp_path / "run", lambda question, answer: "yes" if answer in ("yes", "no") else answer, never)
    assert main(["report", str(run), "--failures", "--review", "6"]) == 1
    assert (run / "failures" / PAGE).is_file()
    key = json.loads((run / "failures" / KEY).read_text())
    items = list(key["items"])
    told = [{"item": items[0], "grades": ["good"], "text": ""}, {"item": items[1], "grades": ["invents", "repeats"], "text": "a small pond"}]
    told += [{"item": item, "grades": ["invents"], "text": " "} for item in items[2:4]]
    file = tmp_path / "verdicts.json"
    write_json(file, {"review": key["review"], "reviewer": "", "verdicts": told})
    capsys.readouterr()
    assert main(["report", str(run), "--verdicts", str(file), "--corrections", str(tmp_path / "store"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["corrections"] == 3 and sum(each["good"]["n"] for each in said["runs"]["run"].values()) == 4
    drawn = [one["drawn"] for one in list(key["items"].values())[:4]]
    assert (
        said["runs"]["run"][drawn[0]]["good"]["value"] == 1 / drawn.count(drawn[0])
        and sorted(one["drawn"] for one in key["items"].values()).count("random") == 3
    )
    rows = list(Store.open(tmp_path / "store"))
    assert rows[0].text(-1) == "a small pond" and rows[0].origin.maker == "human" and rows[0].pictures
    cases = {f"{case.evaluation}/{case.name}": case for case in gather(run)[0].cases}
    for row in rows[1:]:
        assert row.text(-1) == cases[row.id].right[0] and row.text(-2) == cases[row.id].question and row.origin.parents == (cases[row.id].name,)
    assert main(["report", str(run), "--verdicts", str(file)]) == 0
    assert "graded" in capsys.readouterr().out
    words = ["report", str(run), "--verdicts", str(file), "--corrections", str(tmp_path / "again"), "--rows", str(tmp_path / "rows")]
    assert main(words) == 0 and "format: openai-messages" in capsys.readouterr().out
    read_and_apply([(READER.parse({"kind": "openai-messages"}), tmp_path / "rows")], None, [], tmp_path / "read", on_problem="refuse", seed=0, config="")
    trained = [[row.text(turn) for turn in (-2, -1)] for row in Store.open(tmp_path / "read")]
    assert trained == [[row.text(turn) for turn in (-2, -1)] for row in rows], "a recipe reads the rows as they were corrected"
    assert main([*words, "--layout", "dotta"]) == 2 and "dota" in capsys.readouterr().err


def test_a_correction_keeps_the_boxes_of_the_right_answer(tmp_path: Path, laid: Path) -> None:
    case = gather(evaluated(laid, tmp_path / "run", right, never))[0].cases[0]
    regions = Regions(regions=(Region(label="pond", shape=RotatedBox(cx=10, cy=10, w=8, h=4, theta=5)),), label="pond")
    grounded = replace(case, right=(), reply=Turn(role="assistant", items=(regions,)))
    verdict = Verdict(run="run", evaluation=case.evaluation, request=case.name, good=False, drawn="random", faults=("box-off",))
    write_review(tmp_path / "known", [(grounded, "random")], {}, "run", seed=0)
    store, without = write_corrections(tmp_path / "store", [verdict], questions_of(tmp_path / "known"))
    assert store[0].turns[-1].items == (regions,) and without == []
    write_review(tmp_path / "unknown", [(replace(grounded, reply=None), "random")], {}, "run", seed=0)
    with pytest.raises(Refused, match="none with a right answer"):
        write_corrections(tmp_path / "other", [verdict], questions_of(tmp_path / "unknown"))
    store, _ = write_corrections(tmp_path / "told", [replace(verdict, text="no pond")], questions_of(tmp_path / "unknown"))
    assert store[0].text(-1) == "no pond" and store[0].turns[-2] == case.asked.turns[-1]
    with pytest.raises(Refused, match="review/no-question"):
        write_corrections(tmp_path / "strange", [replace(verdict, request="another")], questions_of(tmp_path / "known"))
    assert summary([verdict])["run"]["random"]["box-off"].value == 1


def test_strange_verdicts_are_refused_together(tmp_path: Path) -> None:
    write_json(tmp_path / KEY, {"review": "r", "items": {"a": {"run": "x", "evaluation": "e", "request": "q", "drawn": "worst"}}})
    file = tmp_path / "verdicts.json"
    write_json(
        file,
        {
            "review": "s",
            "verdicts": [
                {"item": "b", "grades": ["good"]},
                {"item": "a", "grades": ["good", "invents"]},
                {"item": "a", "grades": []},
                3,
                {"item": ["a"], "grades": ["good"]},
                {"item": "a", "grades": [["good"]]},
                {"item": "a", "grades": ["good"], "text": 3},
                {"item": "a", "grades": ["good"]},
                {"item": "a", "grades": ["invents"]},
            ],
        },
    )
    with pytest.raises(Refused) as caught:
        read_verdicts(tmp_path, file)
    assert [problem.code for problem in caught.value.problems] == [
        "review/other",
        "review/strange-item",
        "review/strange-grade",
        "review/strange-grade",
        "review/strange-item",
        "review/strange-item",
        "review/strange-grade",
        "review/strange-text",
        "review/strange-item",
    ]
    file.write_text("[]")
    with pytest.raises(Refused, match="review/not-verdicts"):
        read_verdicts(tmp_path, file)


# what is asked


class Scripted:
    """Answers as it is told, from the request; boxes are read by the codec."""

    def __init__(self, says: Callable[[Sample], str]) -> None:
        self.says = says

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for request in requests:
            text = self.says(request.sample)
            items = (Text(text=text),)
            yield Answer(
                key=request.sample.id, sample=request.sample.id, weights="", text=text, items=items, logps=(-1.0, -1.0) if request.ask == "score" else ()
            )

    def measure(self, sample: Sample) -> int:
        return 1


def test_a_store_is_asked_with_regions_and_other_pictures(laid: Path) -> None:
    store = Store.open(laid / "data" / "test-questions")
    told = {one.request.sample.id: one.right[0] for one in asked_of(store[int(row)] for row in store.kept)}
    shown = {one.request.sample.id: one.request.sample.pictures[0].hash for one in asked_of(store[int(row)] for row in store.kept)}
    cases = ask_store(store, Scripted(lambda sample: told[sample.id] if sample.pictures[0].hash == shown[sample.id] else "?"), seed=0)
    assert len(cases) == len(told) and all(case.score == 1 and case.shuffled_score == 0 and not case.asked.annotations for case in cases)
    sample = store[0]
    region = Regions(regions=(Region(shape=RotatedBox(cx=40, cy=40, w=20, h=10, theta=0)),))
    [one] = asked_of([replace(sample, turns=(*sample.turns[:1], Turn(role="assistant", items=(region,))), attributes={})])
    assert one.right == () and one.reply.items == (region,) and XyhwtCodec().holds


def test_probes_are_asked_of_annotated_pictures(laid: Path, tmp_path: Path) -> None:
    evidence, _ = gather(evaluated(laid, tmp_path / "run", right, never))
    samples = [replace(case.asked, annotations=case.annotations) for case in evidence.cases]
    cases = ask_probes(evidence, samples, Scripted(lambda sample: "yes"), seed=0, wording="is there {a_label}?")
    assert {case.kind for case in cases} == {"probe-present", "probe-random", "probe-popular", "probe-adversarial"}
    assert len({case.picture for case in cases}) == 12 and all(case.question.startswith("is there a") for case in cases)
    assert len({case.name for case in cases}) == len(cases)


def test_text_is_scored_row_by_row() -> None:
    def row(text: str, options: list[str] | None = None) -> Sample:
        turns = (Turn(role="user", items=(Text(text="which?"),)), Turn(role="assistant", items=(Text(text=text),)))
        return Sample(id="x", turns=turns, attributes={"options": options} if options else {}, origin=Origin(source="made"))

    found = score_text("read", Scripted(lambda sample: "north"), [row("north", ["north", "south"]), row("south", ["north", "south"]), row("a text")])
    assert found == TextScores(stage="read", logps=((-2.0, 2),) * 3, chosen=(True, False))


def test_text_of_a_run_without_two_language_stages_is_refused(laid: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(laid, run)
    write_json(run / "graph.json", [])
    with pytest.raises(Refused, match="usage/no-text"):
        text_before_and_after(run, Path("notes"), answers=tmp_path / "answers.jsonl")


# what is left out, and what names say


def test_what_was_not_looked_at_is_counted_and_listed(laid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = evaluated(laid, tmp_path / "run", lambda question, answer: "yes" if answer in ("yes", "no") else answer, never)
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(text + "  later: {benchmark: {questions: {data: test-questions}}, controls: false}\n")
    file = run / "evaluate" / "questions" / "answers.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    evidence, rows = gather(run)
    few = TrainingRows(rows.stores, most=10 * len(rows.stores))
    assert few.cut and all(0 < few.cut[name] < len(rows.stores[name]) for name in few.cut) and not rows.cut
    made = report(run, evidence, few)
    assert any(line.startswith("evaluation later: it has no scores") for line in made.left_out)
    assert any(line.startswith("evaluation questions: how 1 of ") for line in made.left_out)
    assert any("were not looked through" in line for line in made.left_out)
    assert list(made.left_out) == made.record()["left_out"] and all(line.split(":")[0] in markdown(made) for line in made.left_out)


def test_markdown_reads_no_mark_of_the_data() -> None:
    from sightline.failure_page import _cell

    assert _cell("a|b <b> `c` *d* [e](f) \\ g_h\ni") == r"a\|b \<b\> \`c\` \*d\* \[e\](f) \\ g\_h i"


def test_rows_of_one_id_and_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    samples = [Sample(id="1", origin=Origin(source=source)) for source in ("a", "b")]
    assert [one.id for one in named_apart([*samples, replace(samples[0], id="2")])] == ["a:1", "b:1", "2"]
    assert name_of(tmp_path / "run") == "run" and name_of(tmp_path / "x" / "run", tmp_path / "y" / "run") == "x/run"
    assert name_of(tmp_path / "x", tmp_path / "y") == "x"

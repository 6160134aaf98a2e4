"""Benchmarks are read from files in their published layouts, and score answers as published."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from published_files import answered, built, coded, lines, mme_folder, png, tsv, values
from sightline.errors import Refused
from sightline.evaluate.answer_files import read_answers
from sightline.evaluate.asking import scores_of
from sightline.evaluate.benchmark_kinds.mme import COGNITION, PERCEPTION, read_mme_answers, write_mme_answers
from sightline.evaluate.benchmark_table import BENCHMARK
from sightline.evaluate.benchmarks import Captions, Questions
from sightline.evaluate.published import PublishedBenchmark, PublishedKind, PublishedRow, items_of, resampled
from sightline.evaluate.vlmevalkit_tsv import listed, read_tsv
from sightline.samples.sample import Picture, Show, Text

MILLION = 10**6


def said(benchmark: PublishedBenchmark, number: int = 0) -> list[object]:
    items = next(iter(list(benchmark.requests())[number : number + 1])).sample.turns[0].items
    return [item.text if isinstance(item, Text) else item.picture if isinstance(item, Show) else item for item in items]


# VLMEvalKit TSV


def test_a_tsv_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(9))
    header = "index image image_path question hint A B C answer category l2-category split"
    path = tsv(
        tmp_path / "x.tsv",
        header,
        [0, coded(1), "", 'say "a\tb"\nc', "Look.", "x", "y", "nan", "B", "c1", "l1", "dev"],
        [1, 0, "", "q1", "", "x", "y", "z", "C", "c1", "l1", "dev"],
        [2, [coded(2), coded(3)], "", "q2", "", "x", "y", "z", "A", "c2", "l1", "dev"],
        [3, "", "images/a.png", "q3", "", "x", "y", "z", "A", "c2", "l2", "dev"],
    )
    rows = list(read_tsv(path, None, True))
    assert [len(row.pictures) for row in rows] == [1, 1, 2, 1] and rows[0].pictures == rows[1].pictures
    assert rows[0].question == 'say "a\tb"\nc' and rows[0].options == {"A": "x", "B": "y"} and rows[0].told("split") == "dev"
    assert rows[0].fields["image"] == rows[1].fields["image"] and all(not row.pictures for row in read_tsv(path, None, False))
    benchmark = built("multiple-choice", path)
    assert said(benchmark) == [0, 'Look.\nsay "a\tb"\nc\nA. x\nB. y\nAnswer with the option\'s letter from the given choices directly.']
    scores = benchmark.score(answered(benchmark, "B", "C.", "none of these I think", "B"))
    assert values(scores, "all", "c1", "c2", "l1", "l2") == {"all": 0.5, "c1": 1, "c2": 0, "l1": 0.6667, "l2": 0}
    assert scores.habits["unparsed"].value == 0.25 and scores.per_request[0].expected == ("B", "y")
    assert scores_of(json.loads(json.dumps(scores.record()))) == scores
    assert len(list(built("multiple-choice", path, limit=2).requests())) == 2


@pytest.mark.parametrize(
    ("header", "row", "code"),
    [
        ("image question", ["", "q"], "not-tsv"),
        ("index index question", [0, 0, "q"], "not-tsv"),
        ("index image question answer A B", [0, "", "q"], "not-tsv"),
        ("index image question answer A B", [0, "@@" * 40, "q", "A", "x", "y"], "tsv-picture"),
        ("index image question answer A B", [0, base64.b64encode(b"GIF8 no picture" * 9).decode(), "q", "A", "x", "y"], "not-a-picture"),
        ("index image question answer A B", [0, "7", "q", "A", "x", "y"], "tsv-reference"),
        ("index image_path question answer A B", [0, "../x.png", "q", "A", "x", "y"], "path-escape"),
        ("index image_path question answer A B", [0, "['a', ", "q", "A", "x", "y"], "tsv-list"),
        ("index image question answer A B", [0, coded(), "q", "C", "x", "y"], "no-such-option"),
        ("index image question answer A B", [0, coded(), "q", "", "x", "y"], "no-such-option"),
    ],
)
def test_broken_tsv_files_are_refused(header: str, row: list[object], code: str, tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        built("multiple-choice", tsv(tmp_path / "x.tsv", header, row))
    assert refused.value.problems[0].code.endswith(f"/{code}")


def test_rows_without_answers_and_repeated_rows_are_refused(tmp_path: Path) -> None:
    path = tsv(tmp_path / "x.tsv", "index image question answer category", [0, coded(), "q", "", "c"], [0, coded(), "q", "x", "c"])
    with pytest.raises(Refused) as refused:
        built("ocrbench", path)
    assert {problem.code for problem in refused.value.problems} == {"evaluate/no-answer", "evaluate/repeated-id"}
    with pytest.raises(Refused, match="nothing-to-ask"):
        built("ocrbench", tsv(tmp_path / "y.tsv", "index image question answer"))


FIELD = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00\r"), max_size=12)


@given(st.lists(st.tuples(FIELD, FIELD.filter(lambda text: text.strip() not in ("", "nan"))), min_size=1, max_size=4))
def test_any_text_comes_back_from_a_tsv_file(tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]]) -> None:
    path = tsv(tmp_path_factory.mktemp("t") / "x.tsv", "index question answer", *([k, *pair] for k, pair in enumerate(texts)))
    assert [(row.question, row.answer) for row in read_tsv(path, None, True)] == texts


def test_lists() -> None:
    assert listed("['a', 2]", "x") == ["a", "2"] and listed("a, b", "x") == ["a, b"]
    for broken in ("[[1]]", "[f()]", "[" * 300):
        with pytest.raises(Refused):
            listed(broken, "x")


def test_pictures_stand_where_their_marks_are() -> None:
    pictures = [Picture(hash=f"{k}", width=1, height=1, data=b"") for k in range(3)]
    shown = [
        item.picture if isinstance(item, Show) else item.text
        for item in items_of("a <image 2> b <image 1> <image 2> <image 7>", pictures)
        if isinstance(item, Show | Text)
    ]
    assert shown == [2, "a ", 1, " b ", 0, " <image 2> <image 7>"]


# MME


def test_mme_reproduces_the_official_tool(shared_data: Path) -> None:
    folder = shared_data / "mme_sample_answers"
    benchmark = built("mme", folder, seen=False)
    scores = benchmark.score(read_answers(folder, benchmark))
    wanted = json.loads((folder.parent / "counts.json").read_text(encoding="utf-8"))["mme_sample_answers"]["subtasks"]
    assert set(wanted) == {*PERCEPTION, *COGNITION}
    assert values(scores, "perception score", "cognition score") == {"perception score": 963.6114, "cognition score": 249.6429}
    for task, known in wanted.items():
        found = values(scores, f"{task} score", f"{task} acc", f"{task} acc+")
        assert list(found.values()) == pytest.approx([known["score"], known["acc"], known["acc_plus"]], abs=1e-4)
        assert scores.metrics[f"{task} acc"].n == known["questions"] and scores.metrics[f"{task} acc+"].n == known["images"]
    assert scores.habits["unparsed"].value * 2374 == pytest.approx(12)


def test_mme_answers_are_written_back_byte_for_byte(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "mme_sample_answers"
    read = read_mme_answers(folder)
    write_mme_answers([row for row, _ in read], {row.index: text for row, text in read}, tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (folder / file.name).read_bytes()
    assert len(list(tmp_path.iterdir())) == 14


def test_mme_folders_are_asked_and_answers_come_back(tmp_path: Path) -> None:
    benchmark = built("mme", mme_folder(tmp_path / "MME"))
    assert [row.index for row in benchmark.rows][:3] == ["count/0.png/1", "count/0.png/2", "count/1.png/1"] and len(benchmark.rows) == 8
    assert said(benchmark) == [0, "Is it 0? Please answer yes or no."]
    texts = ["Yes", "No.", "yes\nit\tis", "Yes", "no", "no", "Yes", "maybe"]
    write_mme_answers(benchmark.rows, dict(zip([row.index for row in benchmark.rows], texts, strict=True)), tmp_path / "out")
    assert (tmp_path / "out" / "count.txt").read_text(encoding="utf-8").splitlines()[2] == "1.png\tIs it 1? Please answer yes or no.\tYes\tyes it is"
    scores = benchmark.score(read_answers(tmp_path / "out", benchmark))
    assert values(scores, "count score", "scene score", "scene acc+") == {"count score": 125, "scene score": 50, "scene acc+": 0}
    assert "perception score" not in scores.metrics and scores.habits["unparsed"].value == 1 / 8
    assert len(built("mme", tmp_path / "MME", limit=3).rows) == 6
    blanks = [" Yes", " No"] * 4
    rules = [built("mme", tmp_path / "MME", rule=rule).score(answered(benchmark, *blanks)).metrics["all"].value for rule in ("mme", "tolerant", "word", "pope")]
    assert rules == [1.0, 1.0, 1.0, 1.0]
    assert [built("mme", tmp_path / "MME", rule=rule).score(answered(benchmark, *["  Yes"] * 8)).metrics["all"].value for rule in ("mme", "tolerant")] == [
        0.0,
        0.5,
    ]
    (tmp_path / "MME" / "count" / "0.txt").write_text("one line\tYes\n", encoding="utf-8")
    with pytest.raises(Refused, match="two lines"):
        built("mme", tmp_path / "MME")
    with pytest.raises(Refused, match="no-pictures"):
        built("mme", tmp_path / "out")


def test_mme_as_tsv_groups_by_picture(tmp_path: Path) -> None:
    rows = [[k, coded(k // 2) if k % 2 == 0 else str(k - 1), f"q{k}", "Yes" if k % 2 == 0 else "No", "count"] for k in range(4)]
    path = tsv(tmp_path / "MME.tsv", "index image question answer category", *rows)
    for seen in (True, False):
        benchmark = built("mme", path, seen=seen)
        assert values(benchmark.score(answered(benchmark, "yes", "no", "yes", "yes")), "count score") == {"count score": 125}


# POPE


POPE = [("Yes", "yes"), ("Yes", "no"), ("No", "yes"), ("No", "no"), ("Yes", "yes"), ("No", "no"), ("Yes", "no"), ("No", "no")]


def pope_file(folder: Path, split: str) -> Path:
    (folder / "p.jpg").write_bytes(png())
    rows = [{"question_id": k, "image": "p.jpg", "text": f"Is there a {k}?", "label": truth} for k, (_, truth) in enumerate(POPE, 1)]
    return lines(folder / f"coco_pope_{split}.json", *rows)


def test_pope_figures(tmp_path: Path) -> None:
    for split in ("random", "popular"):
        pope_file(tmp_path, split)
    benchmark = built("pope", tmp_path)
    assert said(benchmark) == [0, "Is there a 1?\nAnswer the question using a single word or phrase."]
    answers = [*(given for given, _ in POPE), *("Yes" if truth == "yes" else "No" for _, truth in POPE)]
    scores = benchmark.score(answered(benchmark, *answers))
    names = ("accuracy", "precision", "recall", "f1", "yes-share")
    assert values(scores, *(f"popular {name}" for name in names)) == dict(
        zip([f"popular {name}" for name in names], (0.625, 0.5, 0.6667, 0.5714, 0.5), strict=True)
    )
    assert values(scores, "random f1", "all", "yes-share") == {"random f1": 1, "all": 0.8125, "yes-share": 0.4375}
    assert scores.metrics["f1"].low <= scores.metrics["f1"].value <= scores.metrics["f1"].high
    ready = lines(tmp_path / "answers_random.jsonl", *({"question": f"Is there a {k}?", "answer": given} for k, (given, _) in enumerate(POPE, 1)))
    alone = built("pope", tmp_path / "coco_pope_random.json", seen=False)
    assert values(alone.score(read_answers(ready, alone)), "f1") == {"f1": 0.5714}
    strange = lines(tmp_path / "answers.jsonl", *({"question": "?", "answer": "yes"} for _ in POPE))
    with pytest.raises(Refused, match="answer-file"):
        read_answers(strange, alone)


# HallusionBench


def test_hallusionbench_pairs(tmp_path: Path) -> None:
    (tmp_path / "f.png").write_bytes(png())
    rows = [
        {
            "category": "VS",
            "subcategory": "map",
            "visual_input": str(figure),
            "set_id": "0",
            "figure_id": str(figure),
            "question_id": str(question),
            "question": "q?",
            "gt_answer": "1",
            "filename": "./f.png" if figure else None,
        }
        for figure in (0, 1)
        for question in (0, 1)
    ]
    path = tmp_path / "HallusionBench.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    benchmark = built("hallusionbench", path)
    assert [len(row.pictures) for row in benchmark.rows] == [0, 0, 1, 1] and benchmark.rows[3].index == "VS_map_1_0_1_1"
    scores = benchmark.score(answered(benchmark, "Yes", "yes", "It is not.", "Yes."))
    assert values(scores, "all", "figures", "questions", "VS all") == {"all": 0.75, "figures": 0.5, "questions": 0.5, "VS all": 0.75}


# multiple choice


def mmbench_file(path: Path, copies: int = 4) -> Path:
    rows = [[7 + k * MILLION, coded() if k == 0 else "7", "q", *"wxyz"[k:], *"wxyz"[:k], "ABCD"[-k % 4], "c", "l"] for k in range(copies)]
    return tsv(
        path,
        "index image question A B C D answer category l2-category",
        *rows,
        [8, coded(1), "q", "x", "y", "", "", "A", "d", "l"],
        [8 + MILLION, "8", "q", "y", "x", "", "", "B", "d", "l"],
    )


def test_mmbench_is_circular(tmp_path: Path) -> None:
    benchmark = built("mmbench", mmbench_file(tmp_path / "x.tsv"))
    scores = benchmark.score(answered(benchmark, "A", "D", "C", "A", "A", "B"))
    assert values(scores) == {"all": 0.5, "vanilla": 1, "l": 0.5, "c": 0, "d": 1} and scores.metrics["all"].n == 2
    assert len(built("mmbench", tmp_path / "x.tsv", limit=1).rows) == 4
    short = built("mmbench", mmbench_file(tmp_path / "y.tsv", copies=3))
    with pytest.raises(Refused, match="missing-rotation"):
        short.score(answered(short, *"ADCAB"))


def test_mmstar_says_both_means(tmp_path: Path) -> None:
    rows = [[k, coded(k), "q", "x", "y", "A", "c", "one" if k < 3 else "two"] for k in range(4)]
    benchmark = built("mmstar", tsv(tmp_path / "x.tsv", "index image question A B answer category l2-category", *rows))
    assert values(benchmark.score(answered(benchmark, "A", "A", "A", "B")), "all", "macro") == {"all": 0.75, "macro": 0.5}


def test_realworldqa_takes_short_answers(tmp_path: Path) -> None:
    path = tsv(tmp_path / "x.tsv", "index image question A B answer", [0, coded(), "q", "x", "y", "B"], [1, coded(), "How many?", "", "", "3"])
    benchmark = built("realworldqa", path)
    assert values(benchmark.score(answered(benchmark, "B", "3."))) == {"all": 1} and said(benchmark, 1) == [0, "How many?"]


def test_scienceqa_reports_pictures_apart(tmp_path: Path) -> None:
    (tmp_path / "test" / "1").mkdir(parents=True)
    (tmp_path / "test" / "1" / "image.png").write_bytes(png())
    one = {"question": "Which?", "choices": ["oak", "pine"], "answer": 1, "hint": "Trees.", "image": "image.png", "split": "test", "subject": "science"}
    problems = {"1": one, "2": {**one, "image": None, "answer": 0, "hint": ""}, "3": {**one, "split": "train"}}
    path = tmp_path / "problems.json"
    path.write_text(json.dumps(problems), encoding="utf-8")
    benchmark = built("scienceqa", path)
    assert said(benchmark)[1] == "Trees.\nWhich?\nA. oak\nB. pine\nAnswer with the option's letter from the given choices directly."
    scores = benchmark.score(answered(benchmark, "The answer is B.", "pine"))
    assert values(scores) == {"all": 0.5, "picture": 1, "no picture": 0, "science": 0.5}
    assert len(built("scienceqa", path, with_picture=True).rows) == 1 and len(built("scienceqa", path, split="train", seen=False).rows) == 1


# MMMU, MathVista, OCRBench


def test_mmmu_interleaves_pictures_and_counts_what_it_cannot_read(tmp_path: Path) -> None:
    path = tsv(
        tmp_path / "x.tsv",
        "index image question A B answer category split",
        [0, [coded(1), coded(2)], "See <image 1>. Which?", "<image 2>", "none", "A", "Art", "validation"],
        [1, coded(3), "How much?", "", "", "['1,200', 'twelve hundred']", "Finance", "validation"],
    )
    benchmark = built("mmmu", path)
    assert said(benchmark)[:4] == ["See ", 0, ". Which?\nA. ", 1] and said(benchmark, 1) == [0, "How much?\nAnswer the question using a single word or phrase."]
    scores = benchmark.score(answered(benchmark, "unclear", "The result is $1200.00"))
    assert values(scores, "all", "choice", "open", "Art") == {"all": 0.5, "choice": 0, "open": 1, "Art": 0} and scores.habits["unparsed"].value == 0.5
    guessed = [built("mmmu", path, guess=True).score(answered(benchmark, "unclear", "")) for _ in range(2)]
    assert guessed[0] == guessed[1] and guessed[0].habits["unparsed"].value == 1


@pytest.mark.parametrize(
    ("kind", "precision", "right", "answer", "is_right"),
    [
        ("integer", "", "14", "The number missing in the sequence is 14.", True),
        ("integer", "", "14", "14.0", True),
        ("integer", "", "1200", "There are 1,200 of 3: the answer is 1,200", True),
        ("integer", "", "14", "fourteen", False),
        ("float", "1.0", "0.6", "The fraction is 0.62, so 0.62", True),
        ("float", "2.0", "0.62", "0.6", False),
        ("list", "", "[2007, 2008]", "between [2007,2008].", True),
        ("text", "", "blue", 'The answer is "blue".', True),
        ("text", "", "blue", "green", False),
    ],
)
def test_mathvista_free_answers(kind: str, precision: str, right: str, answer: str, is_right: bool, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(png())
    common = {"image": "images/1.jpg", "metadata": {"task": "figure", "skills": ["arithmetic", "logic"]}}
    free = {**common, "question": "q", "choices": None, "precision": precision or None, "answer": right, "question_type": "free_form", "answer_type": kind}
    choice = {
        **common,
        "question": "which?",
        "choices": ["3/11", "8/11"],
        "answer": "8/11",
        "question_type": "multi_choice",
        "answer_type": "text",
        "query": "Which one?",
    }
    path = tmp_path / "testmini.json"
    path.write_text(json.dumps({"1": free, "2": choice}), encoding="utf-8")
    benchmark = built("mathvista", path)
    assert said(benchmark, 1) == [0, "Which one?"]
    scores = benchmark.score(answered(benchmark, answer, "The correct answer is (B) 8/11."))
    assert [row.score for row in scores.per_request] == [float(is_right), 1.0]
    assert scores.metrics["skill logic"].n == 2 and scores.metrics["figure"].n == 2


def test_ocrbench_contains(tmp_path: Path) -> None:
    formula = "Handwritten Mathematical Expression Recognition"
    rows = [
        [0, coded(), "q", "['Harbor View', 'HV']", "Regular Text Recognition"],
        [1, coded(), "q", "12.50", "Key Information Extraction"],
        [2, coded(), "q", "x ^ 2 + Y", formula],
        [3, coded(), "q", "x ^ 2 + Y", formula],
    ]
    benchmark = built("ocrbench", tsv(tmp_path / "x.tsv", "index image question answer category", *rows))
    scores = benchmark.score(answered(benchmark, "it says harbor\nview", "12", "= x^{2} + Y", "so x^2+Y"))
    assert values(scores, "all", "text recognition", "key information", "formulas") == {
        "all": 0.5,
        "text recognition": 1,
        "key information": 0,
        "formulas": 0.5,
    }
    (tmp_path / "a.png").write_bytes(png())
    path = tmp_path / "OCRBench.json"
    path.write_text(
        json.dumps([{"dataset_name": "IIIT5K", "question": "q", "answers": ["ab", "cd"], "type": "Regular Text Recognition", "image_path": "a.png"}]),
        encoding="utf-8",
    )
    official = built("ocrbench", path)
    assert values(official.score(answered(official, "the CD")), "all") == {"all": 1} and len(official.rows[0].pictures) == 1


# what all share


def test_ready_answers_in_several_forms(tmp_path: Path) -> None:
    path = tsv(tmp_path / "x.tsv", "index image question A B answer", [0, coded(), "q", "x", "y", "B"], [1, coded(), "q", "x", "y", "A"])
    benchmark = built("ai2d", path, seen=False)
    forms = [
        tsv(tmp_path / "p.tsv", "index question answer prediction", [0, "q", "B", "B"], [1, "q", "A", "B"]),
        lines(tmp_path / "a.jsonl", {"question_id": 0, "text": "B"}, {"question_id": 1, "text": "B"}),
        lines(tmp_path / "own.jsonl", {"key": "k", "sample": "0", "text": "B"}, {"key": "l", "sample": "1", "text": "B"}),
    ]
    (tmp_path / "m.json").write_text('{"0": "B", "1": "B"}', encoding="utf-8")
    for form in [*forms, tmp_path / "m.json"]:
        assert values(benchmark.score(read_answers(form, benchmark))) == {"all": 0.5}, form.name
    with pytest.raises(Refused, match="missing-answer"):
        benchmark.score(read_answers(lines(tmp_path / "b.jsonl", {"index": "1", "text": "B"}), benchmark))
    with pytest.raises(Refused, match="answer-file"):
        read_answers(lines(tmp_path / "c.jsonl", {"index": "1", "said": "B"}), benchmark)


def test_every_kind_has_a_headline_and_says_its_files() -> None:
    kinds = [one for one in BENCHMARK.table().values() if issubclass(one, PublishedKind)]
    assert len(kinds) >= 13 and all(one.files and one.__doc__ for one in kinds)
    assert {Questions.model_fields["kind"].default, Captions.model_fields["kind"].default} <= set(BENCHMARK.table())


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), min_size=1, max_size=12))
def test_an_interval_holds_its_value(rows: list[tuple[int, float]]) -> None:
    groups, scores = [group for group, _ in rows], [score for _, score in rows]
    value = resampled(groups, lambda times: times @ scores / times.sum(axis=1))
    assert value.low <= value.value <= value.high and value.value == pytest.approx(sum(scores) / len(scores)) and value.n == len(set(groups))


def test_rows_tell_the_first_field_that_says_something() -> None:
    row = PublishedRow(index="1", place="x", question="q", answer="a", fields={"category": "", "l2-category": "b"})
    assert row.told("category", "l2-category") == "b" and row.told("split") == ""

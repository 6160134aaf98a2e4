"""`sightline eval` scores a model or ready answers on a published benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from published_files import coded, lines, tsv
from scripted_endpoint import scripted
from sightline.cli.main import main


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Two questions with options."""
    return tsv(tmp_path / "x.tsv", "index image question A B answer", [0, coded(), "q", "x", "y", "B"], [1, coded(1), "r", "x", "y", "A"])


def test_ready_answers_are_scored(questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = lines(tmp_path / "a.jsonl", {"index": 0, "text": "B"}, {"index": 1, "text": "B"})
    words = ["eval", "--benchmark", "ai2d", "--path", str(questions), "--answers", str(answers)]
    assert main(words) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[1].split()[:2] == ["all", "0.5000"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["metrics"]["all"]["value"] == 0.5 and [row["score"] for row in told["per_request"]] == [1, 0]


def test_an_endpoint_is_asked_once(questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(lambda asked, number: "B") as endpoint:
        words = ["eval", "--benchmark", "ai2d", "--path", str(questions), "--model", f"{endpoint.url}#m", "--answers", str(tmp_path / "kept.jsonl")]
        assert main(words) == 0 and main(words) == 0 and len(endpoint.asked) == 2
        assert endpoint.asked[0]["messages"][0]["content"][0]["type"] == "image_url"
    assert "0.5000" in capsys.readouterr().out
    assert main(["eval", "--benchmark", "ai2d", "--path", str(questions), "--answers", str(tmp_path / "kept.jsonl")]) == 0


def test_mme_answers_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    text = "1.jpg\tq?\tYes\tyes\n1.jpg\tr?\tNo\tno\n"
    (tmp_path / "a" / "count.txt").write_text(text, encoding="utf-8")
    words = ["eval", "--benchmark", "mme", "--path", str(tmp_path / "a"), "--answers", str(tmp_path / "a"), "--write", str(tmp_path / "b")]
    assert main(words) == 0 and "200.0000" in capsys.readouterr().out
    assert (tmp_path / "b" / "count.txt").read_text(encoding="utf-8") == text


POPE = [{"question_id": k, "image": "p.png", "text": f"Is there a {k}?", "label": "no"} for k in (1, 2)]
OCR = {"dataset_name": "HME100k", "question": "q", "answers": ["ab"], "type": "Key Information Extraction", "image_path": "p.png"}
DOCUMENT = [{"questionId": k, "question": "q", "image": "p.png", "answers": ["a"], "question_types": ["layout"]} for k in (5, 6)]
SCENE = {"question": "q", "imageId": "7", "answer": "a", "types": {"structural": "query", "semantic": "attr", "detailed": "x"}}
VET = {"imagename": "p.png", "question": "q", "answer": "a", "capability": ["rec"]}
ASKED = [{"image_id": 9, "question": "q", "question_id": k} for k in (1, 2)]
PEOPLE = [{**one, "question_type": "how many", "answer_type": "number", "multiple_choice_answer": "a", "answers": [{"answer": "a"}] * 10} for one in ASKED]
OFFICIAL: dict[str, tuple[str, object, list[str], object]] = {
    "pope": ("coco_pope_random.json", POPE, ["random/1", "random/2"], [{"question_id": k, "question": f"Is there a {k}?", "answer": t} for k, t in ((1, "yes"), (2, 'a "b"'))]),
    "vqav2": ("v2_OpenEnded_mscoco_val2014_questions.json", {"data_subtype": "val2014", "questions": ASKED}, ["1", "2"], [{"question_id": 1, "answer": "yes"}, {"question_id": 2, "answer": 'a "b"'}]),
    "docvqa": ("val_v1.0.json", {"data": DOCUMENT}, ["5", "6"], [{"questionId": 5, "answer": "yes"}, {"questionId": 6, "answer": 'a "b"'}]),
    "gqa": ("testdev_balanced_questions.json", {"01": SCENE, "02": SCENE}, ["01", "02"], [{"questionId": "01", "prediction": "yes"}, {"questionId": "02", "prediction": 'a "b"'}]),
    "ocrbench": ("OCRBench.json", [{**OCR, "id": 3}, {**OCR, "id": 4}], ["3", "4"], [
        {"id": k, "dataset_name": "HME100k", "type": OCR["type"], "question": "q", "answers": ["ab"], "predict": t} for k, t in ((3, "yes"), (4, 'a "b"'))
    ]),
    "mm-vet": ("mm-vet.json", {"v1_0": VET, "v1_1": VET}, ["v1_0", "v1_1"], {"v1_0": "yes", "v1_1": 'a "b"'}),
}  # fmt: skip


@pytest.mark.parametrize("kind", OFFICIAL)
def test_answers_are_written_as_their_makers_read_them_and_read_again(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, published, names, wanted = OFFICIAL[kind]
    path = tmp_path / name
    path.write_text("".join(json.dumps(one) + "\n" for one in published) if kind == "pope" else json.dumps(published), encoding="utf-8")  # pyright: ignore[reportGeneralTypeIssues]
    (tmp_path / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": PEOPLE}), encoding="utf-8")
    answers = lines(tmp_path / "kept.jsonl", *({"sample": one, "text": text} for one, text in zip(names, ("yes", 'a "b"'), strict=True)))
    out = tmp_path / "out" / ("" if kind == "pope" else "told.json")
    words = ["eval", "--benchmark", kind, "--path", str(path), "--json"]
    assert main([*words, "--answers", str(answers), "--write", str(out)]) == 0
    told = capsys.readouterr()
    assert "2 answers in" in told.err and "as official reads them" in told.err
    file = out / "answers_random.jsonl" if kind == "pope" else out
    text = file.read_text(encoding="utf-8")
    assert ([json.loads(line) for line in text.splitlines()] if kind == "pope" else json.loads(text)) == wanted
    if kind == "mm-vet":
        assert "not scored" in told.err and not told.out, "its makers' server judges"
        words += ["--write", str(tmp_path / "again.json")]
    assert main([*words, "--answers", str(file)]) == 0
    assert kind == "mm-vet" or json.loads(capsys.readouterr().out)["metrics"] == json.loads(told.out)["metrics"]


@pytest.mark.parametrize(("form", "name"), [("vlmevalkit", "p.tsv"), ("vlmevalkit", "p.json"), ("lmms-eval", "p.jsonl")])
def test_answers_are_written_for_other_harnesses(form: str, name: str, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers, out = lines(tmp_path / "a.jsonl", {"index": 0, "text": "B"}, {"index": 1, "text": "B"}), tmp_path / "out" / name
    words = ["eval", "--benchmark", "ai2d", "--path", str(questions), "--json"]
    assert main([*words, "--answers", str(answers), "--write", str(out), "--form", form]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main([*words, "--answers", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == first["metrics"]
    assert main([*words, "--answers", str(answers), "--write", str(out), "--form", "official"]) == 1
    assert "evaluate/no-official-form" in capsys.readouterr().out


def test_questions_are_written_for_another_harness_and_nobody_is_asked(questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out" / "MyData.tsv"
    assert main(["eval", "--benchmark", "ai2d", "--path", str(questions), "--write", str(out), "--form", "questions", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["questions"] == 2
    answers = lines(tmp_path / "a.jsonl", {"index": 0, "text": "B"}, {"index": 1, "text": "A"})
    assert main(["eval", "--benchmark", "ai2d", "--path", str(out), "--answers", str(answers)]) == 0
    assert "1.0000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--benchmark", "mmme", "--answers", "x"], "mmbench"),
        (["--benchmark", "questions", "--answers", "x"], "ai2d"),
        (["--benchmark", "ai2d"], "--model"),
        (["--benchmark", "ai2d", "--answers", "x", "--set", "rule=guess"], "'match'"),
        (["--benchmark", "ai2d", "--answers", "x", "--set", "rule"], "KEY=VALUE"),
        (["--benchmark", "ai2d", "--answers", "x", "--form", "official"], "--write PATH"),
        (["--benchmark", "ai2d", "--answers", "x", "--write", "y", "--form", "questions"], "leave them out"),
    ],
)
def test_mistakes_are_told(words: list[str], said: str, questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--path", str(questions), *words]) == 2
    assert said in capsys.readouterr().err

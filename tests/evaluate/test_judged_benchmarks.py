"""Judged benchmarks ask a judge as they say, read its grades, keep its verdicts, and refuse without one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from published_files import answered, built, lines, png, values, vet_file
from scripted_endpoint import scripted
from sightline.errors import Refused
from sightline.evaluate.benchmark_kinds import llava_bench, mm_vet
from sightline.evaluate.judging import TRIES, filled
from sightline.named_answerers import named_answerer
from sightline.samples.exchange import Answer, Request
from sightline.samples.sample import Sample


class Judge:
    """Replies in turn to each prompt that holds a word."""

    def __init__(self, replies: dict[str, list[str]]) -> None:
        self.replies, self.asked = replies, list[Request]()

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for request in requests:
            self.asked.append(request)
            word = next(word for word in self.replies if word in request.sample.text(-1).split("\n")[-1])
            yield Answer(key=request.sample.id, sample=request.sample.id, weights="judge", text=self.replies[word].pop(0))

    def measure(self, sample: Sample) -> int:
        return 0


def test_mm_vet_grades(tmp_path: Path) -> None:
    benchmark = built("mm-vet", vet_file(tmp_path), pictures=str(tmp_path / "images"))
    judge = Judge({"x?": ["half", "1.5", " 0.5 \n"], "y?": ["1.0"]})
    scores = benchmark.score(answered(benchmark, "x = -1 {answer}", "fine"), judge)
    assert values(scores) == {"all": 0.75, "rec": 1, "ocr": 0.5, "math": 0.5, "ocr+math": 0.5}
    assert [request.decoding.temperature for request in judge.asked] == [0, 0, 0.5, 1.0]
    assert judge.asked[0].sample.text(-1).endswith("\nx? | -1 <AND> -5 | x = -1 {answer} |") and not judge.asked[0].sample.pictures
    silent = benchmark.score(answered(benchmark, "a", "b"), Judge({"x?": ["?"] * TRIES, "y?": ["0.2"]}))
    assert values(silent)["all"] == 0.2 and silent.habits["unjudged"].value == 0.5 and len(silent.per_request) == 1
    with pytest.raises(Refused, match="no-judge"):
        benchmark.score(answered(benchmark, "a", "b"))


def wild_folder(folder: Path) -> Path:
    (folder / "images").mkdir()
    (folder / "images" / "001.jpg").write_bytes(png())
    kinds = ("conv", "detail", "complex")
    lines(folder / "questions.jsonl", *({"question_id": k, "image": "001.jpg", "text": f"q{k}?", "category": kind} for k, kind in enumerate(kinds)))
    lines(folder / "context.jsonl", {"id": "001", "image": "001.jpg", "caption": "a bay"})
    lines(folder / "answers_gpt4.jsonl", *({"question_id": k, "text": f"reference {k}"} for k in range(3)))
    return folder


def test_llava_bench_is_relative(tmp_path: Path) -> None:
    benchmark = built("llava-bench", wild_folder(tmp_path), judge_prompt=prompt_file(tmp_path))
    judge = Judge({"q0?": ["8 6\nbecause"], "q1?": ["9, 9"], "q2?": ["7 5"]})
    scores = benchmark.score(answered(benchmark, "a", "b", "c"), judge)
    assert values(scores) == {"all": 0.8333, "grade": 0.6667, "conv": 0.75, "detail": 1, "complex": 0.7143}
    assert judge.asked[0].sample.text(-1) == "a bay|reference 0|a|q0?"
    silent = benchmark.score(answered(benchmark, "a", "b", "c"), Judge({"q0?": ["8 6"], "q1?": ["9 9"], "q2?": ["none"] * TRIES}))
    assert values(silent, "all") == {"all": round(15 / 17, 4)} and silent.habits["unjudged"].value == pytest.approx(1 / 3)
    swapped = built("llava-bench", tmp_path, judge_prompt=prompt_file(tmp_path), swap=True)
    turned = Judge({"q0?": ["8 6", "6 8"], "q1?": ["9 9", "9 9"], "q2?": ["7 5", "7 5"]})
    assert values(swapped.score(answered(benchmark, "a", "b", "c"), turned), "conv", "detail", "complex") == {"conv": 0.75, "detail": 1, "complex": 1}
    assert turned.asked[3].sample.text(-1) == "a bay|a|reference 0|q0?"
    (tmp_path / "poor.txt").write_text("{question}", encoding="utf-8")
    poor = built("llava-bench", tmp_path, judge_prompt=str(tmp_path / "poor.txt"))
    with pytest.raises(Refused, match="judge-prompt"):
        poor.score(answered(benchmark, "a", "b", "c"), judge)


def prompt_file(folder: Path) -> str:
    (folder / "prompt.txt").write_text("{caption}|{reference}|{prediction}|{question}", encoding="utf-8")
    return str(folder / "prompt.txt")


def test_verdicts_of_an_endpoint_are_kept(tmp_path: Path) -> None:
    benchmark = built("mm-vet", vet_file(tmp_path), pictures=str(tmp_path / "images"))
    with scripted(lambda asked, number: "0.4") as endpoint:
        scores = [
            benchmark.score(answered(benchmark, "a", "b"), named_answerer(f"{endpoint.url}#judge", answers=tmp_path / "verdicts.jsonl")) for _ in range(2)
        ]
        assert scores[0] == scores[1] and values(scores[0], "all") == {"all": 0.4} and len(endpoint.asked) == 2
    assert len((tmp_path / "verdicts.jsonl").read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.parametrize(("reply", "found"), [("0.5", 0.5), (" 1.0.", 1.0), (".3", 0.3), ("1", 1.0), ("1.1", None), ("0.5 because", None), ("", None)])
def test_grades_of_one(reply: str, found: float | None) -> None:
    assert mm_vet.grade(reply) == found


@pytest.mark.parametrize(
    ("reply", "found"), [("8 6", (8, 6)), ("\n8.5, 10\nx 3", (8.5, 10)), ("8", None), ("8 11", None), ("0 5", None), ("1 2 3", None), ("", None)]
)
def test_grades_of_two(reply: str, found: tuple[float, float] | None) -> None:
    assert llava_bench.grades(reply) == found


@given(st.text(max_size=20), st.text(max_size=20))
def test_what_is_put_in_is_not_a_place(one: str, other: str) -> None:
    assert filled("<{a}|{b}>", {"a": one, "b": other}) == f"<{one}|{other}>"
    assert filled("<{a}|{b}>", {"a": "{b}", "b": other}) == f"<{{b}}|{other}>"

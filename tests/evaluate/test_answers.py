"""Answers survive kills, are never asked twice, and come back as they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import Problem, Refused
from sightline.evaluate.answers import AnswerFile, answer_all, answer_of, answer_record
from sightline.samples.exchange import Answer, Request
from sightline.samples.sample import Box, Origin, Region, Regions, Sample, Text, Turn

numbers = st.floats(allow_nan=False)
items = st.one_of(
    st.builds(Text, text=st.text()),
    st.builds(
        lambda x, label: Regions(regions=(Region(label=label, shape=Box(x0=x, y0=0.0, x1=x + 1, y1=2.0)),), label=label),
        st.floats(0, 100),
        st.one_of(st.none(), st.text(min_size=1)),
    ),
)
problems = st.builds(Problem, code=st.just("model/odd"), place=st.text(), found=st.text(), severity=st.sampled_from(["refuse", "warn"]))
answers = st.builds(
    Answer,
    key=st.text(min_size=1),
    sample=st.text(),
    weights=st.text(),
    text=st.text(st.characters(exclude_categories=[])),
    items=st.lists(items, max_size=2).map(tuple),
    tokens=st.lists(st.integers(0, 2**31)).map(tuple),
    logps=st.lists(numbers).map(tuple),
    choice=st.one_of(st.none(), st.integers(0, 9)),
    score=st.one_of(st.none(), numbers),
    vector=st.one_of(st.none(), st.lists(numbers).map(tuple)),
    finish=st.sampled_from(["stop", "length", "refused"]),
    problems=st.lists(problems, max_size=2).map(tuple),
    seconds=st.floats(0, 100),
)


def answer(key: str, text: str = "yes") -> Answer:
    return Answer(key=key, sample=f"s-{key}", weights="w", text=text)


def request(name: str) -> Request:
    return Request(sample=Sample(id=name, turns=(Turn(role="user", items=(Text(text="is there a pond?"),)),), origin=Origin(source="test")))


class Counting:
    """Answers every request but those named in `silent`, and remembers what it was asked."""

    def __init__(self, keys: dict[str, str], silent: frozenset[str] = frozenset()) -> None:
        self.keys, self.silent, self.asked = keys, silent, []

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for one in reversed(list(requests)):
            self.asked.append(one.sample.id)
            if one.sample.id not in self.silent:
                yield Answer(key=self.keys[one.sample.id], sample=one.sample.id, weights="w", text=f"to {one.sample.id}")

    def measure(self, sample: Sample) -> int:
        return 1


@given(given_answers=st.lists(answers, max_size=4, unique_by=lambda one: one.key))
def test_answers_come_back_equal(given_answers: list[Answer], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("answers") / "deep" / "answers.jsonl"
    file = AnswerFile(path)
    for one in given_answers:
        file.append(one)
    again = AnswerFile(path)
    assert len(again) == len(given_answers) and again.dropped == 0
    assert [again.found(one.key) for one in given_answers] == given_answers


def test_infinite_log_probabilities_are_strict_json() -> None:
    record = answer_record(replace(answer("a"), logps=(float("-inf"), -0.1)))
    assert record["logps"] == ["-inf", -0.1] and answer_of(record).logps == (float("-inf"), -0.1)


@pytest.mark.parametrize("kept", [1, 25, -2, -1])
def test_a_torn_last_line_is_cut_off_and_asked_again(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "answers.jsonl"
    file = AnswerFile(path)
    file.append(answer("a"))
    whole = path.read_bytes()
    file.append(answer("b"))
    last = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + last[:kept])
    again = AnswerFile(path)
    torn = kept != -1  # without its newline only, the line is whole
    assert again.dropped == int(torn) and (again.found("b") is None) == torn
    again.append(answer("c"))
    final = AnswerFile(path)
    assert final.found("a") == answer("a") and final.found("c") == answer("c") and final.dropped == 0
    assert len(final) == (2 if torn else 3)


def test_a_file_that_holds_only_a_torn_line_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b'{"key": "a"')
    assert len(AnswerFile(path)) == 0 and path.read_bytes() == b""
    path.write_bytes(b"\0\0\0\0\n")
    assert AnswerFile(path).dropped == 1 and path.read_bytes() == b""


def test_broken_lines_in_the_middle_are_all_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    file = AnswerFile(path)
    file.append(answer("a"))
    line = path.read_bytes()
    path.write_bytes(b"oops\n" + line + b'{"key": 1}\n' + line)
    with pytest.raises(Refused) as refused:
        AnswerFile(path)
    assert [problem.place for problem in refused.value.problems] == [f"{path}:1", f"{path}:3"]
    assert "'oops'" in str(refused.value) and "delete line 3" in str(refused.value)


def test_only_missing_keys_are_asked_and_equal_keys_once(tmp_path: Path) -> None:
    keys = {"p": "k1", "q": "k2", "r": "k2", "s": "k3"}
    requests = [request(name) for name in keys]
    file = AnswerFile(tmp_path / "answers.jsonl")
    file.append(Answer(key="k1", sample="elsewhere", weights="w", text="known"))
    answerer = Counting(keys)
    found = answer_all(requests, answerer, list(keys.values()), file)
    assert sorted(answerer.asked) == ["r", "s"] and [one.sample for one in found] == ["p", "q", "r", "s"]
    assert [one.text for one in found] == ["known", "to r", "to r", "to s"]
    assert answer_all(requests, answerer, list(keys.values()), AnswerFile(file.path)) == found and len(answerer.asked) == 2


def test_a_silent_answerer_is_refused_and_its_other_answers_are_kept(tmp_path: Path) -> None:
    keys = {"p": "k1", "q": "k2"}
    file = AnswerFile(tmp_path / "answers.jsonl")
    with pytest.raises(Refused, match=r"evaluate/unanswered at p\n.*1 of 2 requests"):
        answer_all([request(name) for name in keys], Counting(keys, frozenset({"p"})), list(keys.values()), file)
    assert AnswerFile(file.path).found("k2") is not None


def test_an_answer_under_a_strange_key_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="came under key other"):
        answer_all([request("p")], Counting({"p": "other"}), ["k1"], AnswerFile(tmp_path / "answers.jsonl"))

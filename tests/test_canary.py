"""Two models on the same traffic: what is read, what is measured, what decides, and what the command says."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_chat import ScriptedChat, answer, given
from scripted_words import tiny
from servers import data_url, png, shown

from sightline.canary import Asked, Limits, Pair, compare, paired, read_requests
from sightline.canary_page import SHOWN, draw, markdown, write
from sightline.cli.main import main
from sightline.errors import Refused
from sightline.model import directory
from sightline.serve.chat_client import Reply


def reply(text: str, seconds: float = 1.0, status: int = 200, **message: Any) -> Reply:
    return Reply(status=status, seconds=seconds, body=answer(text, **message) if status == 200 else {"error": {"code": "serve/full"}})


def pair(number: int, first: Reply, other: Reply, **asked: Any) -> Pair:
    body = {"messages": shown(text=f"How many? {number}")}
    return Pair(asked=Asked(**{"name": f"r{number}", "body": body} | asked), first=first, other=other)


def verdicts(pairs: Sequence[Pair], **limits: Any) -> dict[str, str | None]:
    found = compare(("a", "b"), pairs, Limits(**limits))
    return {one.name: one.verdict for one in found.measures} | {"all": found.verdict}


def known(count: int, wrong: Callable[[int], bool]) -> list[Pair]:
    """Requests whose right answer is yes; the first is right, the other is wrong at some."""
    return [pair(number, reply("yes"), reply("no" if wrong(number) else "Yes."), right=("yes",)) for number in range(count)]


def test_the_other_is_no_worse_only_where_there_were_enough_requests() -> None:
    assert verdicts(known(400, lambda number: False))["all"] == "no worse"
    assert verdicts(known(20, lambda number: False))["all"] == "unclear", "20 alike answers do not prove 2 %"
    assert verdicts(known(20, lambda number: False), max_worse=0.2)["all"] == "no worse"


def test_what_is_worse_is_told_from_what_is_unclear() -> None:
    assert verdicts(known(200, lambda number: number % 5 == 0))["score"] == "worse"
    assert verdicts(known(200, lambda number: number % 40 == 0))["score"] == "unclear"
    assert verdicts(known(200, lambda number: number % 5 == 0), max_worse=0.4)["score"] == "no worse"


def test_right_answers_may_be_said_in_other_words() -> None:
    found = verdicts(known(400, lambda number: False))
    assert found["the same answer"] is None, "differing answers that are right decide nothing"
    assert verdicts(known(400, lambda number: False), max_differ=0.1)["the same answer"] == "worse"


def test_without_right_answers_every_difference_counts() -> None:
    pairs = [pair(number, reply("yes"), reply("no" if number % 5 == 0 else "yes")) for number in range(200)]
    assert verdicts(pairs)["the same answer"] == "worse"
    assert verdicts(pairs, max_differ=0.5)["all"] == "no worse"


def test_no_answer_is_a_wrong_answer() -> None:
    pairs = [pair(number, reply("yes"), reply("yes", status=503 if number % 4 == 0 else 200), right=("yes",)) for number in range(200)]
    found = compare(("a", "b"), pairs, Limits())
    assert {one.name: one.other.value for one in found.measures if one.name in ("score", "answered")} == {"score": 0.75, "answered": 0.75}
    assert found.verdict == "worse" and found.outcomes == {"equal": 150, "differ": 0, "failed": 50}


def test_answers_out_of_form_are_counted() -> None:
    box = {"box": [1, 2, 11, 12]}
    broken = reply("a", regions=[box], region_problems=[{"code": "x"}])
    pairs = [pair(number, reply("a", regions=[box]), broken if number % 2 else reply("a", regions=[box])) for number in range(100)]
    pairs += [
        pair(1000 + number, reply("{}"), reply("{"), body={"messages": shown(text=str(number)), "response_format": {"type": "json_object"}})
        for number in range(50)
    ]
    [formed] = [one for one in compare(("a", "b"), pairs, Limits()).measures if one.name == "well formed"]
    assert formed.first.value == 1 and formed.other.value == pytest.approx(50 / 150) and formed.verdict == "worse"


def test_regions_are_held_against_each_other_and_against_the_right_ones() -> None:
    right, half = {"box": [0, 0, 10, 10]}, {"box": [0, 0, 10, 5]}
    pairs = [pair(number, reply("x", regions=[right]), reply("y", regions=[half]), regions=(right,)) for number in range(60)]
    found = {one.name: one for one in compare(("a", "b"), pairs, Limits()).measures}
    assert found["score"].first.value == 1 and found["score"].other.value == pytest.approx(0.5)
    assert found["regions in common (IoU)"].other.value == pytest.approx(0.5) and found["regions in common (IoU)"].verdict is None


def test_times_decide_where_a_ratio_is_allowed() -> None:
    pairs = [pair(number, reply("yes", 1.0 + number % 3), reply("yes", 2.0 + 2 * (number % 3))) for number in range(300)]
    assert verdicts(pairs)["all"] == "no worse"
    assert verdicts(pairs, max_slower=1.5)["all"] == "worse" and verdicts(pairs, max_slower=2.1)["all"] == "no worse"
    told = compare(("a", "b"), pairs, Limits()).speed
    assert told is not None and told.ratio.value == pytest.approx(2.0) and told.tails == (3.0, 6.0)


def test_requests_about_one_picture_go_together() -> None:
    body = {"messages": shown(data_url(png(1)))}
    alone = [pair(number, reply("yes"), reply("no" if number < 20 else "yes")) for number in range(200)]
    together = [pair(number, one.first, one.other, body={"messages": shown(data_url(png(number // 20)))}) for number, one in enumerate(alone)]
    width = lambda pairs: paired("x", pairs, lambda one: (1.0, float(one.outcome == "equal"))).difference  # noqa: E731
    assert width(together).high - width(together).low > 2 * (width(alone).high - width(alone).low)
    assert Asked(name="a", body=body).group == Asked(name="b", body=body).group != Asked(name="c", body={"messages": shown()}).group


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.3])
def test_intervals_hold_the_truth_mostly(loss: float) -> None:
    """Of 40 draws from a model that loses so much, few intervals miss it."""
    rng = np.random.default_rng(7)
    missed = 0
    for _ in range(40):
        wrong = rng.random(60) < loss
        difference = paired("x", known(60, lambda number, wrong=wrong: bool(wrong[number])), Pair.scores).difference
        missed += not difference.low <= -loss <= difference.high
    assert missed <= 4


LINES = [
    '{"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "a?"}]}, "right": "yes", "rule": "exact"}',
    '{"messages": [{"role": "user", "content": [{"type": "text", "text": "b?"}]}], "temperature": 0.7}',
    '{"id": "log-1", "outcome": "equal", "body": {"messages": [{"role": "user", "content": "c?"}]}, "ours": ["x"]}',
]


def test_batches_bodies_and_logs_are_read(tmp_path: Path) -> None:
    file = tmp_path / "traffic.jsonl"
    file.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    one, two, three = read_requests(file)
    assert (one.name, one.right, one.rule, one.question) == ("one", ("yes",), "exact", "a?")
    assert (two.name, two.known, two.rule, two.question) == ("traffic.jsonl:2", False, "loose", "b?")
    assert isinstance(two.body["seed"], int), "both draw by the same seed"
    assert three.name == "log-1" and "seed" not in three.body


def test_every_line_that_is_no_request_is_named(tmp_path: Path) -> None:
    file = tmp_path / "traffic.jsonl"
    hashed = '{"id": "x", "outcome": "equal", "request": "00"}'
    file.write_text("\n".join([LINES[0], "{", "3", '{"messages": []}', '{"body": {"messages": [{}]}, "rule": "best"}', hashed]), encoding="utf-8")
    with pytest.raises(Refused) as refused:
        read_requests(file)
    assert [problem.place.rpartition(":")[2] for problem in refused.value.problems] == ["2", "3", "4", "5", "6"]
    assert "--canary-texts" in refused.value.problems[-1].found
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(Refused, match="canary/no-requests"):
        read_requests(file)


def test_reports_say_the_same_and_nothing_in_them_is_markup(tmp_path: Path) -> None:
    body = {"messages": shown(data_url(png(1)), data_url(b"no picture"))}
    pairs = [pair(number, reply("<b>one|two</b>"), reply("*x*"), body=body, right=("y",)) for number in range(SHOWN + 3)]
    pairs += [pair(90, reply("a"), reply("b"), name="a", body={"messages": shown(data_url(b"no picture"))})]
    found = compare(("runs/a", "runs/b"), pairs, Limits())
    page = write(found, tmp_path / "out")
    html, said = page.read_text(encoding="utf-8"), (tmp_path / "out" / "canary.md").read_text(encoding="utf-8")
    told = json.loads((tmp_path / "out" / "canary.json").read_text(encoding="utf-8"))
    inside = ("&lt;b&gt;one", base64.b64encode(png(1)).decode(), "cannot be shown")
    assert "<b>one" not in html and [words for words in inside if words not in html] == []
    assert r"\<b\>one\|two\</b\>" in said and f"and {len(pairs) - SHOWN} more" in said
    assert told["verdict"] == found.verdict and len(told["requests"]) == len(pairs) and found.verdict in said
    assert draw(found).title == "Canary: runs/b" and markdown(found) == said


@pytest.fixture
def traffic(tmp_path: Path) -> Path:
    file = tmp_path / "traffic.jsonl"
    rows = [{"custom_id": f"r{number}", "body": {"messages": shown(data_url(png(number))), "max_tokens": 4}, "right": ["two"]} for number in range(6)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_two_servers_by_their_addresses(traffic: Path, capsys: pytest.CaptureFixture[str]) -> None:
    servers = ScriptedChat(given("two")), ScriptedChat(given("Two."))
    names = [f"{server.chat.url}#there" for server in servers]
    assert main(["canary", *names, "--requests", str(traffic), "--max-worse", "0.5"]) == 0
    said = capsys.readouterr().out
    assert "no worse: of 6 requests 0 answered alike, 6 differently, 0 not by both" in said
    assert main(["canary", *names, "--requests", str(traffic), "--max-worse", "0.5", "--max-differ", "0", "--markdown"]) == 1
    assert capsys.readouterr().out.startswith("# Canary: http")
    assert [len(server.asked) for server in servers] == [12, 12]


def test_two_folders_are_served_and_asked(traffic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [tmp_path / name for name in ("first", "other")]
    for folder, name in zip(folders, ("flat", "flat"), strict=True):
        folder.mkdir()
        directory.save(folder, *tiny(name))
    words = ["canary", *map(str, folders), "--from-log", str(traffic), "--no-verify", "--max-worse", "0.6", "--out", str(tmp_path / "report"), "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["outcomes"] == {"equal": 6, "differ": 0, "failed": 0}, "the same weights say the same"
    assert (tmp_path / "report" / "canary.html").is_file()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--requests", "no-such-file"], "usage/no-file"),
        (["--requests", "FILE", "--max-worse", "2"], "usage/canary"),
        (["--requests", "FILE", "--rule", "best"], "usage/canary"),
        (["--requests", "FILE", "--limit", "0"], "usage/canary"),
        (["--requests", "FILE", "--from-log", "FILE"], "usage/arguments"),
        ([], "usage/arguments"),
        (["--requests", "FILE"], "serve/endpoint"),
    ],
)
def test_what_cannot_be_asked_is_refused(words: list[str], code: str, traffic: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = [str(traffic) if word == "FILE" else word for word in words]
    assert main(["canary", "http://host:1/v1", "http://host:1/v1", *said]) in (1, 2)
    assert code in capsys.readouterr().err

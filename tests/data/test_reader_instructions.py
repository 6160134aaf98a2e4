"""Instructions of text: Alpaca, COIG-CQIA, RefGPT, Self-Instruct."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.data.readers.alpaca import Alpaca
from sightline.data.readers.reader import Reader
from sightline.data.readers.refgpt import Refgpt
from sightline.data.readers.self_instruct import SelfInstruct
from sightline.errors import Problem, Refused
from sightline.samples.sample import Origin, Sample, Text, Turn


def read(reader: Reader, folder: Path, *rows: Any) -> list[Sample | Problem]:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return list(reader.read(folder))


def said(sample: Sample | Problem) -> list[tuple[str, str]]:
    assert isinstance(sample, Sample), str(sample)
    return [(turn.role, sample.text(number)) for number, turn in enumerate(sample.turns)]


def facts(shared_data: Path) -> Any:
    return json.loads((shared_data / "counts.json").read_text(encoding="utf-8"))["text"]


def test_an_empty_input_adds_nothing(tmp_path: Path) -> None:
    row = {"instruction": "i", "input": "", "output": "o", "task_type": {"major": ["\u95ee\u7b54"], "minor": ["\u77e5\u4e4e\u95ee\u7b54"]}}
    more = {"domain": ["\u901a\u7528"], "answer_from": "llm", "human_verified": True, "copyright": "c", "metadata": [{"title": "t"}]}
    first, second = read(Alpaca(), tmp_path, row, {**row, **more, "input": "given", "task_type": {"major": "\u95ee\u7b54"}})
    assert said(first) == [("user", "i"), ("assistant", "o")] and isinstance(first, Sample) and isinstance(second, Sample)
    assert first.attributes == {"kind": "\u95ee\u7b54", "minor": "\u77e5\u4e4e\u95ee\u7b54"} and first.origin.maker == "human"
    assert said(second)[0] == ("user", "i\ngiven") and second.origin.maker == "model:llm"
    assert second.attributes == {
        "kind": "\u95ee\u7b54",
        "domain": ["\u901a\u7528"],
        "answer_from": "llm",
        "human_verified": True,
        "copyright": "c",
        "metadata": '[{"title": "t"}]',
    }


def test_earlier_turns_and_a_system(tmp_path: Path) -> None:
    row = {"id": "z", "instruction": "c", "output": "d", "system": "s", "history": [["a", "b"]]}
    (sample,) = read(Alpaca(), tmp_path, row)
    assert said(sample) == [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    assert isinstance(sample, Sample) and sample.id == "z"


@pytest.mark.parametrize(
    ("reader", "row", "message"),
    [
        (Alpaca(), {"instruction": "i", "output": 5}, r"data/wrong-shape at .*rows\.jsonl:2\n +found: +\{'instruction': 'i', 'output': 5\}"),
        (Alpaca(), {"instruction": "i", "output": " "}, r"samples/empty-answer at .*rows\.jsonl:2"),
        (Alpaca(), {"instruction": "i", "output": "o", "history": [["a"]]}, r"data/wrong-shape"),
        (Alpaca(), "text", r"data/wrong-shape .*\n +found: +text"),
        (Refgpt(), {"dialogue": "nobody speaks", "reference": ""}, r"data/wrong-shape .*\n +found: +a dialogue without <user>: 'nobody speaks'"),
        (Refgpt(), {"dialogue": "<user> a <user> b", "reference": ""}, r"samples/turn-order .*\n +found: +roles \['user', 'user'\]"),
        (SelfInstruct(), {"instruction": "i", "instances": []}, r"data/wrong-shape"),
        (SelfInstruct(), {"instruction": "i", "instances": [{"input": ""}]}, r"data/wrong-shape .*\n +found: +\{'input': ''\}"),
    ],
)
def test_rows_that_are_refused(tmp_path: Path, reader: Reader, row: Any, message: str) -> None:
    good = {"instruction": "i", "output": "o", "dialogue": "<user> q <assistant> a", "reference": "r", "instances": [{"output": "o"}]}
    with pytest.raises(Refused, match=message):
        raise Refused([problem for problem in read(reader, tmp_path, good, row) if isinstance(problem, Problem)])


def test_a_dialogue_in_one_string(tmp_path: Path) -> None:
    row = {"dialogue": "<user> q <assistant> a <user> q2 <assistant> a2", "reference": "facts", "title": "t"}
    wide = "\u5bf9\u8bdd\uff1a \uff1cuser\uff1e \u95ee <assistant>\u7b54 < user > \u518d\u95ee"
    plain, *rest = read(Refgpt(), tmp_path, row, {"dialogue": wide, "reference": ""})
    assert said(plain) == [("user", "q"), ("assistant", "a"), ("user", "q2"), ("assistant", "a2")]
    assert isinstance(plain, Sample) and plain.attributes == {"reference": "facts", "title": "t"}
    *warnings, sample = rest
    assert [(warning.code, warning.severity) for warning in warnings if isinstance(warning, Problem)] == [
        ("data/trailing-user", "warn"),
        ("data/before-first-mark", "warn"),
    ]
    assert said(sample) == [("user", "\u95ee"), ("assistant", "\u7b54")]


def test_instances_are_samples(tmp_path: Path) -> None:
    row = {"id": "seed_task_1", "name": "antonym", "instruction": "Relate.", "instances": [{"input": "up", "output": "down"}], "is_classification": True}
    one, *two = read(SelfInstruct(), tmp_path, row, {**row, "instances": [{"input": "", "output": "a"}, {"input": "", "output": "b"}]})
    assert said(one) == [("user", "Relate.\nup"), ("assistant", "down")] and isinstance(one, Sample)
    assert one.id == "seed_task_1" and one.attributes == {"kind": "antonym", "classification": True}
    assert [sample.id for sample in two if isinstance(sample, Sample)] == ["seed_task_1#0", "seed_task_1#1"]


def test_published_instructions(shared_data: Path) -> None:
    fact, path = facts(shared_data), shared_data / "text"
    assert {file.name for file in Alpaca().annotated(path)} == {"alpaca_en_demo.json", "alpaca_zh_demo.json"}
    assert {file.name for file in SelfInstruct().annotated(path)} == {"seed_tasks.jsonl"}
    found = [sample for sample in Alpaca().read(path) if isinstance(sample, Sample)]
    assert len({sample.id for sample in found}) == len(found)
    for name in ("alpaca_en_demo", "alpaca_zh_demo"):
        expected = fact[f"{name}.json"]
        part = [sample for sample in found if sample.id.startswith(f"{name}/")]
        assert len(part) == expected["rows"] and sum(len(sample.text(1)) for sample in part) == expected["output_characters"]
        repeated = Counter((sample.text(0), sample.text(1)) for sample in part)
        assert sum(count - 1 for count in repeated.values()) == expected["duplicate_rows"]
    seeds = [sample for sample in SelfInstruct().read(path) if isinstance(sample, Sample)]
    expected = fact["self_instruct/seed_tasks.jsonl"]
    assert len(seeds) == expected["instances"] and sum(sample.attributes["classification"] for sample in seeds) == expected["is_classification_true"]


TEXT = st.text(st.sampled_from("ab\n \u6e2f<"), min_size=1, max_size=5).map(str.strip).filter(bool)


@given(st.lists(TEXT, min_size=1, max_size=3), st.booleans())
@settings(max_examples=25, deadline=None)
def test_dialogues_of_text_survive_writing(texts: list[str], system: bool) -> None:
    body = [Turn(role=role, items=(Text(text=text),)) for text in texts for role in ("user", "assistant")]  # type: ignore[arg-type]
    head = (Turn(role="system", items=(Text(text="s"),)),) if system else ()
    sample = Sample(id="x", turns=(*head, *body), origin=Origin(source=""))
    with TemporaryDirectory() as folder:
        assert Alpaca().write([sample], Path(folder)) == []
        assert [replace(one, origin=sample.origin) for one in Alpaca().read(Path(folder)) if isinstance(one, Sample)] == [sample]
    plain = replace(sample, turns=tuple(body), attributes={"reference": "r"})
    with TemporaryDirectory() as folder:
        assert Refgpt().write([plain], Path(folder)) == []
        assert [replace(one, origin=plain.origin) for one in Refgpt().read(Path(folder)) if isinstance(one, Sample)] == [plain]


def test_what_they_cannot_hold_is_named(tmp_path: Path) -> None:
    pair = (Turn(role="user", items=(Text(text="<user> "),)), Turn(role="assistant", items=(Text(text="a"),), weight=0.5))
    sample = Sample(id="x", turns=pair, attributes={"kind": "k"}, origin=Origin(source="", maker="model:m"))
    problems = Alpaca().write([sample, replace(sample, turns=pair[:1])], tmp_path)
    assert [(problem.found, problem.severity) for problem in problems] == [
        ("weights: 1 sample written without", "warn"),
        ("attributes: 1 sample written without", "warn"),
        ("origin: 1 sample written without", "warn"),
        ("pictures, regions, or a last turn that is not the assistant's: 1 sample not written", "refuse"),
    ]
    (problem,) = Refgpt().write([sample], tmp_path)
    assert problem.severity == "refuse" and "texts with marks" in problem.found
    with pytest.raises(Refused, match="data/read-only-format at SelfInstruct"):
        SelfInstruct().write([sample], tmp_path)

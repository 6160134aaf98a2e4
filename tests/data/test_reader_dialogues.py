"""Dialogues: where markers stand, what is refused, and that what was written is read back."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightline.data.readers.llava_json import MARKER, LlavaJson, marked_items, marked_text
from sightline.data.readers.openai_messages import OpenaiMessages
from sightline.data.readers.reader import Reader
from sightline.data.readers.writing import joined, normal
from sightline.errors import Problem, Refused
from sightline.samples.sample import Box, Film, Item, Origin, Picture, Region, Regions, Sample, Show, Text, Turn


def encoded(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (10 + number, 12), (number, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


DATA = [encoded(number) for number in range(3)]
PICTURES = [Picture(hash=hashlib.sha256(data).hexdigest(), width=10 + k, height=12, data=data, name=f"{k}.png") for k, data in enumerate(DATA)]


def put_rows(folder: Path, rows: Any, name: str = "data.json") -> None:
    (folder / "images").mkdir(exist_ok=True)
    for picture in PICTURES:
        assert isinstance(picture.data, bytes)
        (folder / "images" / picture.name).write_bytes(picture.data)
    (folder / name).write_text(json.dumps(rows), encoding="utf-8")


def llava(folder: Path, row: dict[str, Any]) -> list[Sample | Problem]:
    put_rows(folder, [row])
    return list(LlavaJson().read(folder / "data.json"))


def said(*texts: str) -> list[dict[str, str]]:
    return [{"from": "gpt" if number % 2 else "human", "value": text} for number, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("Describe.\n<image>", (Text(text="Describe."), Show())),
        ("<image>\nDescribe.", (Show(), Text(text="Describe."))),
        ("What is <image> this?", (Text(text="What is "), Show(), Text(text=" this?"))),
        ("<image>", (Show(),)),
        ("a\n\n<image>\n\nb", (Text(text="a\n\n"), Show(), Text(text="\nb"))),
    ],
)
def test_a_marker_becomes_a_picture_at_its_place(text: str, items: tuple[Item, ...]) -> None:
    assert marked_items(text, iter([0])) == items
    assert marked_items(marked_text(items), iter([0])) == items


texts = st.text(st.sampled_from("ab \n"), min_size=1, max_size=4).map(lambda text: Text(text=text))


@given(st.lists(texts | st.just(Show()), max_size=7))
@settings(deadline=None)
def test_items_come_back_from_their_text(items: list[Item]) -> None:
    whole = joined(tuple(items))
    numbers = [0] * sum(isinstance(item, Show) for item in whole)
    assert marked_items(marked_text(whole), iter(numbers)) == whole


def test_a_llava_row(tmp_path: Path) -> None:
    row = {"id": 1, "image": "images/0.png", "conversations": said("Describe.\n<image>", "A harbor.")}
    (sample,) = llava(tmp_path, row)
    assert isinstance(sample, Sample) and sample.id == "1" and sample.pictures == (PICTURES[0],)
    assert [(turn.role, turn.items) for turn in sample.turns] == [("user", (Text(text="Describe."), Show())), ("assistant", (Text(text="A harbor."),))]


def test_text_only_rows_and_foreign_role_names(tmp_path: Path) -> None:
    talk = [{"from": "system", "value": "Be brief."}, {"from": "user", "value": "Hi"}, {"from": "chatgpt", "value": "Hello"}]
    (sample,) = llava(tmp_path, {"id": "t", "conversations": talk})
    assert isinstance(sample, Sample) and sample.pictures == () and [turn.role for turn in sample.turns] == ["system", "user", "assistant"]


def test_a_leading_answer_is_dropped_and_named(tmp_path: Path) -> None:
    talk = [{"from": "gpt", "value": "Hello"}, *said("<image>\nWhat?", "A pond.")]
    warning, sample = llava(tmp_path, {"id": "3", "image": "0.png", "conversations": talk})
    assert isinstance(warning, Problem) and (warning.code, warning.severity) == ("data/leading-assistant", "warn") and "'Hello'" in warning.found
    assert isinstance(sample, Sample) and [turn.role for turn in sample.turns] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"id": "a", "image": "../../etc/passwd", "conversations": said("<image>\na", "b")},
            r"data/path-escape at .*data\.json:row 0\n +found: +'../../etc/passwd' leads out of",
        ),
        ({"id": "a", "image": "/etc/passwd", "conversations": said("<image>\na", "b")}, r"data/path-escape"),
        ({"id": "a", "image": "0.png", "conversations": said("a", "b")}, r"data/marker-count .*\n +found: +0 <image> for 1 pictures"),
        ({"id": "a", "conversations": said("<image>", "b")}, r"data/marker-count .*\n +found: +1 <image> for 0 pictures"),
        ({"id": "a", "conversations": "hello"}, r"data/wrong-shape .*\n +found: +a row without a list `conversations`"),
        ({"id": "a", "conversations": [{"from": "narrator", "value": "x"}]}, r"data/unknown-role .*\n +found: +from: 'narrator'\n +allowed: human"),
        ({"id": "a", "conversations": said("a", "b", "c")[::2]}, r"samples/turn-order .*\n +found: +roles \['user', 'user'\]"),
        ({"id": "a", "conversations": said("a", " ")}, r"samples/empty-answer .*\n +found: +turn 1 is empty"),
        ({"id": "a", "image": 5, "conversations": said("<image>", "b")}, r"data/picture-name .*\n +found: +5 as the name"),
    ],
)
def test_rows_that_are_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    found = llava(tmp_path, row)
    assert all(isinstance(problem, Problem) for problem in found)
    with pytest.raises(Refused, match=message):
        raise Refused([problem for problem in found if isinstance(problem, Problem)])


def test_ids_may_be_numbered_by_row(tmp_path: Path) -> None:
    put_rows(tmp_path, [{"id": "same", "conversations": said("a", "b")}] * 2)
    assert [sample.id for sample in LlavaJson(ids="row").read(tmp_path) if isinstance(sample, Sample)] == ["0", "1"]


def test_markers_take_the_images_in_order_over_the_whole_dialogue(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "<image>Who?"},
        {"role": "assistant", "content": "They."},
        {"role": "user", "content": "And here?<image>"},
        {"role": "assistant", "content": "Also."},
    ]
    put_rows(tmp_path, [{"messages": messages, "images": ["0.png", "0.png"]}])
    (sample,) = OpenaiMessages().read(tmp_path)
    assert isinstance(sample, Sample) and sample.pictures == (PICTURES[0],)
    assert sample.turns[0].items == (Show(), Text(text="Who?")) and sample.turns[2].items == (Text(text="And here?"), Show())


def test_parts_paths_and_data_urls(tmp_path: Path) -> None:
    url = "data:image/png;base64," + base64.b64encode(DATA[1]).decode()
    content = [
        {"type": "text", "text": "Compare <image>"},
        {"type": "image_url", "image_url": {"url": "images/0.png"}},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image", "image": "images/2.png"},
    ]
    put_rows(tmp_path, {"id": "x", "messages": [{"role": "user", "content": content}]}, "rows.jsonl")
    (sample,) = OpenaiMessages().read(tmp_path)
    assert isinstance(sample, Sample)
    assert [picture.hash for picture in sample.pictures] == [picture.hash for picture in PICTURES]
    assert sample.turns[0].items == (Text(text="Compare <image>"), Show(picture=0), Show(picture=1), Show(picture=2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}],
            r"data/remote-picture .*\n +found: +a https: address .*\n.*nothing is fetched",
        ),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,@@"}}], r"data/data-url"),
        ([{"type": "image_url", "image_url": {"url": "../secret.png"}}], r"data/path-escape"),
        ([{"type": "image_url"}], r"data/picture-name .*\n +found: +None"),
        ([{"type": "input_audio"}], r"data/unknown-part .*\n +found: +content part .*input_audio"),
        (None, r"data/unknown-part .*\n +found: +content part null"),
        ([{"type": "image"}], r"data/marker-count .*\n +found: +1 places for 0 pictures"),
    ],
)
def test_parts_that_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    put_rows(tmp_path, [{"messages": [{"role": "user", "content": content}]}])
    with pytest.raises(Refused, match=message):
        raise Refused([problem for problem in OpenaiMessages().read(tmp_path / "data.json") if isinstance(problem, Problem)])


def test_all_broken_lines_are_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"messages": []}\n{"mess\n\nnope\n')
    with pytest.raises(Refused) as refused:
        list(OpenaiMessages().read(tmp_path / "rows.jsonl"))
    assert [problem.place.rsplit(":")[-1] for problem in refused.value.problems] == ["2", "4"]


def test_published_rows_with_pictures(shared_data: Path) -> None:
    facts = json.loads((shared_data / "counts.json").read_text(encoding="utf-8"))["serve_examples"]
    found = [sample for sample in OpenaiMessages().read(shared_data / "serve_examples" / "mllm_demo") if isinstance(sample, Sample)]
    assert len(found) == facts["rows"]
    assert sum(len(sample.turns) for sample in found) == facts["messages"]
    assert sum(isinstance(item, Show) for sample in found for turn in sample.turns for item in turn.items) == facts["image_marks"]


@st.composite
def dialogues(draw: st.DrawFn) -> Sample:
    """A sample whose turns show its pictures in order, each once or more."""
    shown, count = 0, draw(st.integers(0, 3))
    turns: list[Turn] = [Turn(role="system", items=(Text(text="s"),))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        items: list[Item] = [*draw(st.lists(texts, max_size=2))]
        while shown < count and draw(st.booleans()):
            items.insert(draw(st.integers(0, len(items))), Show(picture=shown))
            shown += 1
        turns += [Turn(role="user", items=tuple(items)), Turn(role="assistant", items=(Text(text=draw(st.sampled_from(["yes", "a\nb", " x"]))),))]
    order = list(dict.fromkeys(item.picture for turn in turns for item in turn.items if isinstance(item, Show)))
    renumbered = tuple(
        replace(turn, items=tuple(Show(picture=order.index(item.picture)) if isinstance(item, Show) else item for item in turn.items)) for turn in turns
    )
    return Sample(id=draw(st.sampled_from("abc")), pictures=tuple(PICTURES[:shown]), turns=renumbered, origin=Origin(source="s"))


def back(reader: Reader, samples: Sequence[Sample], root: Path) -> tuple[list[Problem], list[Sample]]:
    problems = reader.write(samples, root)
    return problems, [sample for sample in reader.read(root) if isinstance(sample, Sample)]


@given(dialogues())
@settings(max_examples=40, deadline=None)
def test_dialogues_survive_both_formats(sample: Sample) -> None:
    with TemporaryDirectory() as folder:
        problems, (again,) = back(OpenaiMessages(), [sample], Path(folder) / "o")
        assert problems == [] and (again.id, again.turns, again.pictures) == (sample.id, sample.turns, sample.pictures)
        problems, (again,) = back(LlavaJson(), [sample], Path(folder) / "l")
        assert problems == [] and (again.id, again.turns, again.pictures) == (sample.id, normal(sample.turns), sample.pictures)


@pytest.mark.parametrize("reader", [LlavaJson(), OpenaiMessages()])
def test_independent_turns_become_conversations(tmp_path: Path, reader: Reader) -> None:
    pairs = [Turn(role=role, items=items) for q in "ab" for role, items in (("user", (Show(), Text(text=q))), ("assistant", (Text(text="yes"),)))]  # type: ignore[arg-type]
    sample = Sample(id="s", pictures=(PICTURES[0],), turns=tuple(pairs), attributes={"turns": "independent"}, origin=Origin(source="x"))
    problems, again = back(reader, [sample], tmp_path)
    assert problems == []
    assert [(one.id, one.turns, one.pictures) for one in again] == [("s#0", tuple(pairs[:2]), (PICTURES[0],)), ("s#1", tuple(pairs[2:]), (PICTURES[0],))]


def test_what_a_format_cannot_hold_is_named_with_counts(tmp_path: Path) -> None:
    pair = (Turn(role="user", items=(Show(),)), Turn(role="assistant", items=(Text(text="a"),), alternatives=((Text(text="b"),),), weight=0.5))
    known = (Region(label="ship", shape=Box(x0=0, y0=0, x1=1, y1=1)),)
    full = Sample(id="f", pictures=(PICTURES[0],), turns=pair, annotations=known, attributes={"kind": "count"}, origin=Origin(source="s", licence="CC0"))
    regions = replace(full, id="r", turns=(pair[0], Turn(role="assistant", items=(Regions(regions=known),))))
    film = replace(full, id="v", turns=(Turn(role="user", items=(Film(pictures=(0,), times=(0.0,)),)),))
    marker = replace(full, id="m", turns=(Turn(role="user", items=(Text(text=f"say {MARKER}"),)),))
    silent = replace(full, id="n", turns=())
    problems = LlavaJson().write([full, replace(full, id="g"), regions, film, marker, silent], tmp_path)
    found = {problem.found: problem.severity for problem in problems}
    for what in ("annotations", "alternatives", "weights", "attributes", "origin"):
        assert found.pop(f"{what}: 2 samples written without") == "warn"
    for what in ("regions inside turns", "films", "text that contains <image>", "no turns"):
        assert found.pop(f"{what}: 1 sample not written") == "refuse"
    assert found == {}
    assert [row["id"] for row in json.loads((tmp_path / "llava.json").read_text())] == ["f", "g"]


def test_pictures_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    samples = [
        Sample(id=str(k), pictures=(replace(PICTURES[k], name="same.png"),), turns=(Turn(role="user", items=(Show(),)),), origin=Origin(source="s"))
        for k in (0, 1)
    ]
    _, again = back(OpenaiMessages(), samples, tmp_path)
    assert [sample.pictures[0].hash for sample in again] == [PICTURES[0].hash, PICTURES[1].hash]


def test_pairs_of_human_and_assistant(tmp_path: Path) -> None:
    row = {"system": "Be brief.", "conversation": [{"human": "Hi", "assistant": "Hello"}, {"human": "Bye", "assistant": "Bye!"}]}
    put_rows(tmp_path, [row])
    assert LlavaJson().recognise(tmp_path) == (0.9, "the first row of data.json has conversation")
    (sample,) = LlavaJson().read(tmp_path)
    assert isinstance(sample, Sample)
    assert [(turn.role, sample.text(number)) for number, turn in enumerate(sample.turns)] == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Bye"),
        ("assistant", "Bye!"),
    ]


def test_a_last_question_without_an_answer_is_left_out_and_named(tmp_path: Path) -> None:
    warning, sample = llava(tmp_path, {"id": "3", "conversations": said("Hi", "Hello", "And?")})
    assert isinstance(warning, Problem) and (warning.code, warning.severity) == ("data/trailing-user", "warn") and "'And?'" in warning.found
    assert isinstance(sample, Sample) and [turn.role for turn in sample.turns] == ["user", "assistant"]
    (lonely,) = llava(tmp_path, {"id": "4", "conversations": said("Hi")})
    assert isinstance(lonely, Sample) and [turn.role for turn in lonely.turns] == ["user"]


def test_files_one_level_down_and_their_numbered_rows(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "t.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": name}, {"role": "assistant", "content": "x"}]}))
    found = [sample for sample in OpenaiMessages().read(tmp_path) if isinstance(sample, Sample)]
    assert [(sample.id, sample.text(0)) for sample in found] == [("a/t/0", "a"), ("b/t/0", "b")]
    assert OpenaiMessages().annotated(tmp_path) == {tmp_path / "a" / "t.jsonl", tmp_path / "b" / "t.jsonl"}


def test_a_parquet_file_of_messages_and_pictures(tmp_path: Path) -> None:
    put_rows(tmp_path, [])
    (tmp_path / "data.json").unlink()
    plain = [{"role": "user", "content": "<image>Who? <image>"}, {"role": "assistant", "content": "They."}]
    parts = [
        {
            "role": "user",
            "content": [
                {"type": "image", "text": None, "image_url": None},
                {"type": "text", "text": "Who?", "image_url": None},
                {"type": "image_url", "text": None, "image_url": {"url": "2.png"}},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "They.", "image_url": None}]},
    ]
    both = {"bytes": DATA[0], "path": "x.png"}
    for name, messages, images in (("plain", plain, [both, {"bytes": None, "path": "1.png"}]), ("parts", parts, [both])):
        pq.write_table(pa.Table.from_pylist([{"messages": messages, "images": images}]), tmp_path / f"{name}.parquet")
    one, other = OpenaiMessages().read(tmp_path)
    assert isinstance(one, Sample) and one.id == "parts/0" and [picture.hash for picture in one.pictures] == [PICTURES[0].hash, PICTURES[2].hash]
    assert one.turns[0].items == (Show(picture=0), Text(text="Who?"), Show(picture=1))
    assert isinstance(other, Sample) and [picture.hash for picture in other.pictures] == [PICTURES[0].hash, PICTURES[1].hash]
    assert other.turns[0].items == (Show(picture=0), Text(text="Who? "), Show(picture=1))

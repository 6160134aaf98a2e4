"""Regions inside turns: written by the model's codec, learnt like text, read out of answers; refused where they would not be learnt as they are meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
from compositions import composition
from pydantic import ValidationError

from sightline.errors import Refused
from sightline.model import directory
from sightline.model.assembly import ModelConfig
from sightline.model.chat import CHAT_FORMATS
from sightline.model.processor import Processor
from sightline.model.tokens import TextTokenizer, train_tokenizer
from sightline.samples.codecs import FORMAT_ERROR, regions_in
from sightline.samples.sample import Box, Film, Item, Point, Region, Regions, RotatedBox, Sample, Shape, Show, Text, Turn

SHIP = RotatedBox(cx=10, cy=6, w=8, h=4, theta=30)
"""On a picture of 20 x 12 px."""


def said(*shapes: Shape, label: str | None = "ship", picture: int = 0) -> Regions:
    return Regions(regions=tuple(Region(picture=picture, shape=shape) for shape in shapes), label=label)


def asked(*answer: Item, question: tuple[Item, ...] = (Text(text="Where?"),), pictures: int = 1) -> Sample:
    shown = tuple(Show(picture=number) for number in range(pictures))
    turns = (Turn(role="user", items=(*shown, *question)), *((Turn(role="assistant", items=answer),) if answer else ()))
    return tiny.sample(*turns, pictures=[tiny.picture(number) for number in range(pictures)])


def speaking(codec: Any, **changes: Any) -> Processor:
    config = ModelConfig.model_validate(
        {**{name: getattr(tiny.writer(), name) for name in ("encoders", "tiler", "connector", "language_model")}, "codec": codec, **changes}
    )
    return Processor(config, train_tokenizer(tiny.TEXTS, 340, config.chat_format(), config.controls()))


def test_answers_are_learnt_in_the_words_of_the_codec() -> None:
    processor = speaking("xyhwt-pad")
    encoded = processor.encode(asked(Text(text="The "), said(SHIP), Text(text=".")))
    assert processor.decode(encoded.targets.tolist()) == "The <p>ship</p> {500,300,200,400,30}."
    assert encoded.targets[-1] == processor.tokenizer.end_id and set(encoded.weights.tolist()) == {1.0}
    prompt = processor.encode(asked(), answer=False)
    assert encoded.ids[: prompt.length].tolist() == prompt.ids.tolist(), "a prompt is a prefix of what is learnt"


def test_the_codec_writes_its_control_tokens_and_labels_cannot() -> None:
    processor = speaking("qwen2-vl")
    begin, end = (processor.tokenizer.control(token) for token in ("<|object_ref_start|>", "<|box_end|>"))
    box = Box(x0=2, y0=3, x1=10, y1=9)
    encoded = processor.encode(asked(said(box, label="<|user|> dog")))
    learnt = encoded.targets.tolist()
    assert learnt.count(begin) == learnt.count(end) == 1
    assert all(processor.tokenizer.control(token) not in learnt for token in processor.chat.controls if token != processor.chat.end)
    text = processor.decode(learnt)
    assert text == "<|object_ref_start|><|user|> dog<|object_ref_end|><|box_start|>(100,250),(500,750)<|box_end|>"
    items, problems = processor.items(text, asked())
    assert items == (said_back(box, "<|user|> dog"),) and not problems


def said_back(box: Box, label: str) -> Regions:
    return Regions(regions=(Region(label=label, shape=box),), label=label)


@pytest.mark.parametrize("tokenizer", [tiny.byte_level, tiny.published])
def test_tokenizers_bring_regions_back(tokenizer: Callable[..., TextTokenizer], tmp_path: Path) -> None:
    processor = Processor(tiny.writer(codec="xyhwt"), tokenizer(CHAT_FORMATS["turns"], tmp_path))
    text = processor.decode(processor.encode(asked(said(SHIP))).targets.tolist())
    [region] = regions_in(processor.items(text, asked())[0])
    assert region.label == "ship" and region.shape == RotatedBox(cx=10, cy=6, w=8, h=4, theta=30)


def test_the_frame_is_that_of_the_picture() -> None:
    """`seen`: the picture of 20 x 12 px stands in the middle of a square of 16 px, 3.2 px from its upper edge."""
    processor = speaking("llava-box")
    text = processor.decode(processor.encode(asked(said(Box(x0=0, y0=0, x1=20, y1=12)))).targets.tolist())
    assert text == "ship [0.000, 0.200, 1.000, 0.800]"
    items, _ = processor.items("one [0.500, 0.200, 1.000, 0.800]", asked(question=(Text(text="?"),), pictures=2))
    [region] = regions_in(items)
    assert isinstance(region.shape, Box) and region.picture == 1, "the picture shown last"
    assert vars(region.shape) == pytest.approx({"x0": 10, "y0": 0, "x1": 20, "y1": 12})


def test_what_is_not_well_formed_is_told() -> None:
    items, problems = speaking("xyhwt").items("at {1,2,3} or {1,2,3,4,5", asked())
    assert items == (Text(text="at {1,2,3} or {1,2,3,4,5"),) and [problem.code for problem in problems] == [FORMAT_ERROR] * 2


def test_without_codec_or_picture_an_answer_is_text() -> None:
    text = "{500,300,200,400,30}"
    plain = speaking(None)
    assert plain.items(text, asked()) == ((Text(text=text),), ())
    assert speaking("xyhwt").items(text, tiny.sample(tiny.turn("user", "Where?"))) == ((Text(text=text),), ())
    with pytest.raises(Refused, match=r"model/item-not-said[^$]*model.codec: xyhwt-pad"):
        plain.encode(asked(said(SHIP)))


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (
            asked(said(SHIP, picture=0), pictures=2),
            r"model/regions-elsewhere at test:7, turn 1, regions\n  found:   regions on picture 0, with picture 1 shown last",
        ),
        (asked(said(RotatedBox(cx=90, cy=6, w=8, h=4, theta=0))), r"model/regions-lost at test:7, turn 1"),
        (asked(said(Point(x=1, y=1))), r"samples/shape-not-held at test:7, turn 1, region 0\n  found:   Point"),
        (asked(said(SHIP, label="<p>")), "samples/label-not-sayable at test:7, turn 1"),
        (asked(Text(text="no"), question=(said(),)), "samples/no-region at test:7, turn 0"),
        (
            asked(Regions(regions=(Region(picture=0, shape=SHIP), Region(picture=1, shape=SHIP))), pictures=2),
            r"model/regions-apart at test:7, turn 1, regions\n  found:   one phrase with regions on pictures \[0, 1\]",
        ),
        (
            tiny.sample(
                Turn(role="user", items=(Film(pictures=(0, 1), times=(0.0, 1.0)),)),
                Turn(role="assistant", items=(said(SHIP),)),
                pictures=[tiny.picture(0), tiny.picture(1)],
            ),
            "model/regions-in-film at test:7, turn 1",
        ),
    ],
)
def test_what_would_not_be_learnt_as_meant_is_refused(sample: Sample, message: str) -> None:
    with pytest.raises(Refused, match=message):
        speaking("xyhwt").encode(sample)


def test_all_of_a_sample_is_refused_at_once() -> None:
    with pytest.raises(Refused) as refused:
        speaking("xyhwt").encode(asked(said(Point(x=1, y=1)), said(SHIP, label=" "), question=(said(Point(x=2, y=2)),)))
    assert [problem.place for problem in refused.value.problems] == ["test:7, turn 0, region 0", "test:7, turn 1, region 0", "test:7, turn 1, regions"]


def test_a_model_directory_keeps_its_codec(tmp_path: Path) -> None:
    said_codec = {"kind": "xyhwt", "frame": "source", "convert": True}
    config = tiny.writer(codec=said_codec)
    tokenizer = train_tokenizer(tiny.TEXTS, 340, config.chat_format(), config.controls())
    model, processor = tiny.built(config.resolve(tokenizer.size, control=tokenizer.control), tokenizer)
    directory.save(tmp_path, model, processor)
    whole = {"angle": "le90", "phrase": "tagged", **said_codec}
    assert json.loads((tmp_path / "processor.json").read_text())["codec"] == whole
    again = directory.load(tmp_path)[1]
    assert again.config.codec == config.codec
    sample = asked(said(SHIP))
    assert again.encode(sample).ids.tolist() == processor.encode(sample).ids.tolist()


def test_vectors_of_regions_stand_behind_their_boxes() -> None:
    config = composition("roles").model_copy(update={"codec": tiny.writer(codec={"kind": "ferret"}).codec})
    config = ModelConfig.model_validate({**dict(config), "codec": {"kind": "ferret", "feature": True}})
    processor = Processor(config, train_tokenizer(tiny.TEXTS, 340, config.chat_format(), config.controls()))
    picture = tiny.picture(1, 60, 40)
    box = Box(x0=6, y0=4, x1=30, y1=20)
    question = Turn(role="user", items=(Show(picture=0), Text(text="What is "), said(box, label=None), Text(text="?")))
    encoded = processor.encode(tiny.sample(question, Turn(role="assistant", items=(said(box),)), pictures=[picture]))
    assert encoded.regions == ((0, box),)
    assert processor.prompt(encoded) == "<|user|>{picture}What is [100, 100, 500, 500] {picture}?<|assistant|> ship [100, 100, 500, 500]<|end|>"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec": {"kind": "ferret", "feature": True}}, "add a sampler under `regions`"),
        ({"codec": "xyhwt", "regions": {"kind": "spatial"}}, "this codec asks for no vectors of regions"),
        ({"codec": "xywh"}, "a kind of codec: ferret, geochat"),
        ({"codec": {"kind": "xyhwt", "frame": "round"}}, "frame"),
    ],
)
def test_combinations_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        tiny.writer(**changes)


def test_a_codec_needs_a_language_model() -> None:
    with pytest.raises(ValidationError, match="add a language model"):
        ModelConfig.model_validate({"codec": "xyhwt"})


def test_a_checkpoint_without_the_control_tokens_is_refused() -> None:
    config = tiny.writer(codec="internvl")
    with pytest.raises(Refused, match=r"no token '<ref>'[^$]*the codec this tokenizer was made for"):
        Processor(config, train_tokenizer(tiny.TEXTS, 340, config.chat_format())).encode(asked(said(Box(x0=2, y0=3, x1=10, y1=9))))

"""ModelConfig: parts that do not fit together are refused with what is needed; abilities and resolution follow from what is there."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import tiny_models as tiny
from pydantic import ValidationError

from sightline.model.assembly import ModelConfig
from sightline.model.connectors import MlpConnector
from sightline.model.encoders import EncoderConfig
from sightline.model.layouts import FlatLayout
from sightline.model.pieces import Slots, Words
from sightline.model.text_tower import TextEncoderConfig

ENCODER = EncoderConfig(config=tiny.CLIP)
TOWER = TextEncoderConfig(config={"model_type": "clip_text_model", "vocab_size": 9})


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"encoders": [ENCODER], "tiler": None, "connector": None, "language_model": None}, "encoders need a tiler"),
        ({"encoders": []}, "a connector stands behind encoders: add one"),
        ({"language_model": None}, "a connector stands between encoders and a language model: both are needed"),
        ({"encoders": [ENCODER, ENCODER]}, r"encoders need different names, found \['vision', 'vision'\]"),
        ({"combine": {"kind": "mine", "queries": "vision", "candidates": "other"}}, "combine.candidates\n  one of vision"),
        ({"text_encoder": "connector", "connector": None}, "there is no connector to share"),
        ({"encoders": [], "connector": None, "text_encoder": TOWER}, "a text_encoder is compared with encoders"),
        ({"encoders": [EncoderConfig(config=tiny.CLIP, sees=("tile",))]}, "no encoder sees overview: add the role to `sees`"),
        ({"max_tokens": 7}, "greater than or equal to 8"),
        ({"wings": 2}, "Extra inputs are not permitted"),
    ],
)
def test_parts_that_do_not_fit_are_refused(said: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        tiny.writer(**said)


def test_abilities_follow_from_the_parts() -> None:
    assert tiny.writer().abilities == ("write",)
    assert tiny.writer(text_encoder=TOWER).abilities == ("write", "embed")
    assert tiny.writer(text_encoder=TOWER, connector=None, language_model=None).abilities == ("embed",)
    assert ModelConfig(language_model=tiny.language()).abilities == ("write",)


def test_resolving_copies_vocabulary_and_normalisation_in_and_is_stable() -> None:
    config = tiny.writer(text_encoder=TOWER)
    resolved = config.resolve(300)
    assert resolved.language_model is not None and resolved.text_encoder is not None
    assert (resolved.language_model.block()["vocab_size"], resolved.text_encoder.block()["vocab_size"]) == (300, 300)
    assert resolved.encoders[0].mean is not None and resolved.encoders[0].std is not None
    assert resolved.resolve(300) == resolved
    assert ModelConfig.model_validate_json(resolved.model_dump_json()) == resolved


def test_where_pictures_stand_may_be_chosen() -> None:
    assert tiny.writer(chat="vicuna").chat_format().pictures == "turn-start"
    changed = tiny.writer(chat="vicuna", pictures="before-all").chat_format()
    assert changed.pictures == "before-all" and changed.end == "</s>"


def test_a_flat_layout_stands_between_its_texts() -> None:
    config = tiny.writer(connector=MlpConnector(merge=2), layout=FlatLayout(before="<", after=">"))
    measure = config.measure(10, 10)
    assert (measure.decoder, measure.patches) == (1, 4)
    found = config.layout.pieces(3, measure.tiling, measure.grids, config.fusion.route)
    assert [type(piece) for piece in found] == [Words, Slots, Words]
    assert [(piece.picture, list(piece.entries)) for piece in found if isinstance(piece, Slots)] == [(3, [0])]


def test_configs_measure_without_torch() -> None:
    code = (
        "import sys\n"
        "from sightline.model.assembly import ModelConfig\n"
        f"config = ModelConfig.model_validate_json({tiny.writer().model_dump_json()!r})\n"
        "assert config.resolve().measure(5, 7).decoder == 4\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'heavy'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""Processor: what is learnt is exactly the answers and their ends, for every chat format and sort of tokenizer; branches share what is common."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models as tiny
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import Refused
from sightline.model.chat import CHAT_FORMATS
from sightline.model.lines import conversations
from sightline.model.packing import Encoded
from sightline.model.processor import Processor
from sightline.model.tokens import TextTokenizer
from sightline.samples.sample import Film, Regions, Sample, Text, Turn

HOSTILE = "say " + " ".join(dict.fromkeys(control for chat in CHAT_FORMATS.values() for control in chat.controls)) + " twice"
SHIPS = "\u4e09\u8258\u8239"
ASKED = "\u8fd9\u91cc\u6709\u51e0\u8258\u8239"
DIALOGUES: dict[str, tuple[Turn, ...]] = {
    "one": (tiny.turn("user", "How many ships?"), tiny.turn("assistant", "Three ships")),
    "many": (
        tiny.turn("user", 0, "How many ships?"),
        tiny.turn("assistant", "Three ships"),
        tiny.turn("user", "Where?"),
        tiny.turn("assistant", "In the harbor"),
    ),
    "system": (tiny.turn("system", "assistant answers yes"), tiny.turn("user", "Where? ", 0), tiny.turn("assistant", "In the harbor")),
    "chinese": (tiny.turn("user", ASKED), tiny.turn("assistant", SHIPS)),
    "hostile": (tiny.turn("user", HOSTILE), tiny.turn("assistant", HOSTILE), tiny.turn("user", "Where?"), tiny.turn("assistant", "no")),
    "pieces": (tiny.turn("user", "How ", "many ", "ships?"), tiny.turn("assistant", "Three ", "ships")),
}


def ended(processor: Processor, answer: str) -> list[int]:
    """Tokens of an answer with its prefix and what ends it."""
    chat, tokenizer = processor.chat, processor.tokenizer
    prefix = chat.assistant.prefix.removeprefix(" ") if tokenizer.spaces else chat.assistant.prefix
    return tokenizer.encode(prefix + answer + chat.stop) + ([] if chat.stop else [tokenizer.end_id])


def answers_of(processor: Processor, encoded: Encoded) -> list[str]:
    """Decoded learnt runs: one for each stretch of places that follow each other, or up to an end token."""
    runs: list[list[int]] = [[]]
    for index, (place, target) in enumerate(zip(encoded.answers.tolist(), encoded.targets.tolist())):
        if index and (place != encoded.answers[index - 1] + 1 or runs[-1][-1:] == [processor.tokenizer.end_id]):
            runs.append([])
        runs[-1].append(target)
    assert all(run[-1] == processor.tokenizer.end_id for run in runs) or processor.chat.stop, "an answer has no end token"
    return [processor.decode(run) for run in runs]


# a tokenizer of words decodes with spaces between them: it never shows a stop of several signs
PAIRED = [(chat, name) for chat in CHAT_FORMATS for name in tiny.TOKENIZERS if name != "words" or len(CHAT_FORMATS[chat].stop) < 2]


@pytest.fixture(scope="module", params=PAIRED, ids=lambda pair: "-".join(pair))
def processor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Processor:
    """A processor of every chat format with every sort of tokenizer."""
    chat, name = request.param
    return Processor(tiny.writer(chat=chat), tiny.TOKENIZERS[name](CHAT_FORMATS[chat], tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def turns(tmp_path: Path) -> Processor:
    """The format of recipes with a tokenizer that keeps every text as it is."""
    return Processor(tiny.writer(), tiny.published(CHAT_FORMATS["turns"], tmp_path))


def said(sample: Sample) -> list[str]:
    return [sample.text(number) for number, turn in enumerate(sample.turns) if turn.role == "assistant" and turn.weight > 0]


@pytest.mark.parametrize("name", DIALOGUES)
def test_what_is_learnt_decodes_to_the_answers(processor: Processor, name: str) -> None:
    sample = tiny.sample(*DIALOGUES[name], pictures=[tiny.picture()])
    encoded = processor.encode(sample)
    if not processor.chat.questions and len(said(sample)) > 1:
        assert len(encoded.targets) == sum(len(ended(processor, answer)) for answer in said(sample))
        return  # answers follow each other: which token is whose cannot be read from the places
    learnt, expected = answers_of(processor, encoded), said(sample)
    if processor.tokenizer.decode(processor.tokenizer.encode("a  b")) != "a  b":  # a tokenizer of words: it loses white space, and nothing else
        learnt, expected = tiny.spaceless(learnt), tiny.spaceless(expected)
    assert learnt == expected
    assert encoded.ids[tiny.supervised(encoded)].tolist() == encoded.targets.tolist()
    assert set(encoded.slots.tolist()).isdisjoint(tiny.supervised(encoded))


@pytest.mark.parametrize("name", DIALOGUES)
def test_a_prompt_is_a_prefix_of_its_training_sequence(processor: Processor, name: str) -> None:
    for end in range(len(DIALOGUES[name]) - 1, 0, -2):
        whole = processor.encode(tiny.sample(*DIALOGUES[name][: end + 1], pictures=[tiny.picture()]))
        prompt = processor.encode(tiny.sample(*DIALOGUES[name][:end], pictures=[tiny.picture()]), answer=False)
        assert whole.ids[: prompt.length].tolist() == prompt.ids.tolist()
        assert whole.slots.tolist() == prompt.slots.tolist() and whole.entries.tolist() == prompt.entries.tolist()
        # the answer begins right after it: the last token of the prompt predicts the first of the answer
        assert whole.ids[prompt.length :].tolist() == ended(processor, tiny.sample(DIALOGUES[name][end]).text(0))
        assert prompt.length - 1 in whole.answers.tolist()


def test_text_of_a_sample_writes_no_control_token(processor: Processor) -> None:
    controls = {processor.tokenizer.control(token) for token in (*processor.chat.controls, processor.chat.end, processor.tokenizer.pad)}
    assert controls.isdisjoint(processor.tokenizer.encode(HOSTILE))
    assert "".join(HOSTILE.split()) == "".join(processor.tokenizer.decode(processor.tokenizer.encode(HOSTILE)).split())


def test_a_turn_of_weight_zero_is_context(processor: Processor) -> None:
    first, answer, second, last = DIALOGUES["many"]
    encoded = processor.encode(tiny.sample(first, replace(answer, weight=0.0), second, replace(last, weight=0.5), pictures=[tiny.picture()]))
    heard = processor.encode(tiny.sample(first, answer, second, last, pictures=[tiny.picture()]))
    assert encoded.ids.tolist() == heard.ids.tolist()
    assert tiny.spaceless(answers_of(processor, encoded)) == ["Intheharbor"]
    assert set(encoded.weights.tolist()) == {0.5} and set(heard.weights.tolist()) == {1.0}
    with pytest.raises(Refused, match=r"model/no-answer at test:7\n  found:   no supervised token"):
        processor.encode(tiny.sample(first, replace(answer, weight=0.0), pictures=[tiny.picture()]))


@pytest.mark.parametrize("last", ["Where?", "How many ships?"])  # with one question for all, the trunk itself predicts the first token of every answer
def test_branches_share_their_trunk_and_nothing_else(processor: Processor, last: str) -> None:
    pairs = [("How many ships?", "Three ships"), ("How many ships?", "no"), (last, "In the harbor")]
    system = tiny.turn("system", "assistant answers yes")
    independent = [turn for asked, told in pairs for turn in (tiny.turn("user", 0, asked), tiny.turn("assistant", told))]
    sample = tiny.sample(system, *independent, pictures=[tiny.picture()], independent=True)
    encoded = processor.encode(sample)
    trunk = int((encoded.branches == 0).sum())
    assert trunk > len(encoded.slots) == 4  # the picture is in the trunk, once
    assert [len(turns) for turns in conversations(sample)] == [3, 3, 3]
    for number, turns in enumerate(conversations(sample)):
        alone = processor.encode(tiny.sample(*turns, pictures=[tiny.picture()]))
        seen = np.flatnonzero((encoded.branches == 0) | (encoded.branches == number + 1))
        assert encoded.ids[seen].tolist() == alone.ids.tolist()
        assert encoded.positions[seen].tolist() == alone.positions.tolist()
        own = encoded.pair_of == number
        assert encoded.targets[own].tolist() == alone.targets.tolist()
        assert np.searchsorted(seen, encoded.answers[own]).tolist() == alone.answers.tolist()
        assert set(encoded.answers[own].tolist()) <= set(seen.tolist())


def test_branches_of_different_pictures_part_at_the_first_entry_that_differs(turns: Processor) -> None:
    shown = [turn for index in (0, 1) for turn in (tiny.turn("user", index, "Where?"), tiny.turn("assistant", "no"))]
    pictures = [tiny.picture(0), tiny.picture(1)]
    encoded = turns.encode(tiny.sample(*shown, pictures=pictures, independent=True))
    assert int((encoded.branches == 0).sum()) == 1  # only <|user|>: the placeholder ids agree, the entries do not
    assert encoded.entries.tolist() == list(range(8))


def test_the_dialogue_of_two_rounds_that_is_known_by_heart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # ChatML, words and punctuation as tokens, 4 entries: 38 ids with the line end after the last answer, which is not written here
    monkeypatch.setitem(CHAT_FORMATS, "plain-chatml", CHAT_FORMATS["chatml"].model_copy(update={"default_system": None}))
    processor = Processor(tiny.writer(chat="plain-chatml"), tiny.words(CHAT_FORMATS["chatml"], tmp_path))
    asked = [tiny.turn("user", 0, "\nHow many ships?"), tiny.turn("assistant", "Three ships."), tiny.turn("user", "Where?")]
    encoded = processor.encode(tiny.sample(*asked, tiny.turn("assistant", "In the harbor."), pictures=[tiny.picture()]))
    assert encoded.length == 38 - 1
    assert tiny.supervised(encoded) == [17, 18, 19, 20, 32, 33, 34, 35, 36]
    assert encoded.slots.tolist() == [3, 4, 5, 6]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=40), st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_text_is_learnt_to_the_letter(lossless: Processor, answer: str, question: str) -> None:
    sample = tiny.sample(tiny.turn("user", question), tiny.turn("assistant", answer))
    encoded = lossless.encode(sample)
    assert tiny.answers_of(lossless, encoded) == [answer]
    assert encoded.ids[: len(lossless.encode(tiny.sample(sample.turns[0]), answer=False).ids)].tolist() == encoded.ids[: encoded.answers[0] + 1].tolist()


@pytest.fixture(scope="module")
def lossless(tmp_path_factory: pytest.TempPathFactory) -> Processor:
    """As `turns`, made once."""
    return Processor(tiny.writer(), tiny.published(CHAT_FORMATS["turns"], tmp_path_factory.mktemp("tokenizer")))


@pytest.mark.parametrize(("pictures", "places"), [("in-place", [2, 3, 4, 5]), ("turn-start", [1, 2, 3, 4]), ("before-all", [0, 1, 2, 3])])
def test_where_pictures_stand(tmp_path: Path, pictures: str, places: list[int]) -> None:
    processor = Processor(tiny.writer(pictures=pictures), tiny.words(CHAT_FORMATS["turns"], tmp_path))
    encoded = processor.encode(tiny.sample(tiny.turn("user", "Where", 0), tiny.turn("assistant", "no"), pictures=[tiny.picture()]))
    assert encoded.slots.tolist() == places


def test_too_long_names_both_numbers_and_the_row(tmp_path: Path) -> None:
    processor = Processor(tiny.writer(max_tokens=8), tiny.words(CHAT_FORMATS["turns"], tmp_path))
    sample = tiny.sample(tiny.turn("user", 0, "How many ships"), tiny.turn("assistant", "Three"), pictures=[tiny.picture()])
    with pytest.raises(Refused, match=r"model/too-long at test:7\n  found:   11 tokens\n  allowed: at most 8 "):
        processor.encode(sample)
    assert processor.encode(tiny.sample(*sample.turns[1:])).length == 3  # 8 is a limit, not a wall for short ones


def test_a_region_is_not_said_without_a_codec(turns: Processor) -> None:
    said = Turn(role="user", items=(Regions(regions=(), label="ship"),))
    with pytest.raises(Refused, match=r"model/item-not-said[^$]*found:   Regions"):
        turns.encode(tiny.sample(said, tiny.turn("assistant", "no"), pictures=[tiny.picture()]))


def test_a_film_is_its_frames_in_order(turns: Processor) -> None:
    frames = [tiny.picture(number) for number in range(3)]
    film = turns.encode(
        tiny.sample(Turn(role="user", items=(Film(pictures=(2, 0), times=(0.0, 0.5)), Text(text="Where?"))), tiny.turn("assistant", "no"), pictures=frames)
    )
    shown = turns.encode(tiny.sample(tiny.turn("user", 0, 1, "Where?"), tiny.turn("assistant", "no"), pictures=[frames[2], frames[0]]))
    assert film.ids.tolist() == shown.ids.tolist() and film.entries.tolist() == shown.entries.tolist()
    assert [picture.hash for picture in film.pictures] == [frames[2].hash, frames[0].hash]


def test_collate_keeps_the_order_and_encodes_a_shared_picture_once(turns: Processor) -> None:
    one, two = tiny.picture(1), tiny.picture(2)
    asked = [tiny.turn("user", 0, "Where?", 1), tiny.turn("assistant", "no")]
    rows = [turns.encode(tiny.sample(*asked, pictures=pair)) for pair in ((one, two), (two, one), (two, two))]
    text = turns.encode(tiny.sample(*DIALOGUES["one"]))
    batch = turns.collate([[rows[0], text], [rows[1]], [rows[2]]])
    assert batch.decoder is not None and batch.pictures.pixels is not None
    assert len(batch.pictures.pixels) == len(batch.pictures.tilings) == 2
    assert batch.pictures.picture_of.tolist() == [0, 1]
    assert batch.decoder.sources.tolist() == [*range(8), *range(4, 8), *range(4), *range(4, 8), *range(4, 8)]
    assert sorted(batch.decoder.slots.tolist()) == batch.decoder.slots.tolist()
    assert (batch.decoder.ids.flatten()[batch.decoder.slots] == turns.tokenizer.pad_id).all()
    length = rows[0].length
    assert batch.decoder.segments.tolist()[0] == [1] * length + [2] * text.length
    assert batch.decoder.segments.tolist()[1] == [1] * length + [0] * text.length
    assert batch.decoder.positions.tolist()[0] == [*range(length), *range(text.length)]
    assert batch.targets.tolist() == [int(target) for row in (rows[0], text, rows[1], rows[2]) for target in row.targets]
    assert batch.decoder.ids.flatten()[batch.answers + 1].tolist() == batch.targets.tolist()
    assert sorted(set(batch.owners.tolist())) == [0, 1, 2, 3] and batch.rows == (("test", "s", ""),) * 4


def test_orientations_of_a_picture_are_different_pictures(turns: Processor) -> None:
    encoded = turns.encode(tiny.sample(tiny.turn("user", 0), tiny.turn("assistant", "no"), pictures=[tiny.picture(3, 16, 16)]))
    batch = turns.collate([[replace(encoded, orientation=turn)] for turn in range(8)])
    assert batch.pictures.pixels is not None
    arrays = [crop.numpy() for crop in batch.pictures.pixels]
    assert len({array.tobytes() for array in arrays}) == 8
    assert all(np.array_equal(arrays[turn], np.rot90(arrays[0], turn, (1, 2))) for turn in range(4))
    assert all(np.array_equal(arrays[turn], arrays[turn - 4][:, :, ::-1]) for turn in range(4, 8))


def test_side_texts_end_with_the_end_token_and_are_cut() -> None:
    from sightline.model.text_tower import TextEncoderConfig

    tokenizer: TextTokenizer = tiny.byte_level(CHAT_FORMATS["turns"], Path())
    tower = TextEncoderConfig(config={"model_type": "clip_text_model"}, max_tokens=4)
    processor = Processor(tiny.writer(text_encoder=tower), tokenizer)
    texts = processor.side_texts(["no", "How many ships? Three ships."], [0, -1])
    assert texts.lengths.tolist()[1] == 4 and texts.picture_of.tolist() == [0, -1]
    assert [int(row[length - 1]) for row, length in zip(texts.ids, texts.lengths)] == [tokenizer.end_id] * 2
    assert texts.ids[0, texts.lengths[0] :].tolist() == [tokenizer.pad_id] * (4 - int(texts.lengths[0]))


def test_the_prompt_of_an_answer_key_shows_pictures_and_controls(turns: Processor) -> None:
    sample = tiny.sample(tiny.turn("user", 0, "Where?"), pictures=[tiny.picture()])
    assert turns.prompt(turns.encode(sample, answer=False)) == "<|user|>{picture}Where?<|assistant|>"
    assert turns.decode([*turns.tokenizer.encode("In the harbor"), turns.tokenizer.end_id, *turns.tokenizer.encode("no")]) == "In the harbor"

"""Pieces to tokens: positions on a grid, what tokens see of memory, merged wraps, branches. Golden values: Qwen2-VL section 2.1, Mllama's spans."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models as tiny

from sightline.model.chat import CHAT_FORMATS
from sightline.model.lines import Line, Strand, common_prefix, tokenise
from sightline.model.pieces import Control, Piece, Slots, StreamName, Words
from sightline.model.tiling import Grid
from sightline.model.tokens import TextTokenizer

TURNS = CHAT_FORMATS["turns"]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    """Byte-level, with the controls of the format `turns`."""
    return tiny.byte_level(TURNS, Path())


def word(tokenizer: TextTokenizer) -> str:
    """A text of one token."""
    return next(text for text in ("a", "the", "no", "ships") if len(tokenizer.encode(text)) == 1)


def test_positions_on_a_grid(tokenizer: TextTokenizer) -> None:
    # [a, start, a picture of 2 rows and 3 columns, end, b, c]
    text, token = Words(text=word(tokenizer)), Control(token=TURNS.controls[0])
    pieces: list[Piece] = [text, token, Slots(picture=0, entries=range(6), grid=Grid(columns=3, rows=2)), token, text, token]
    line = tokenise(pieces, [0], tokenizer, grid_positions=True)
    times, rows, columns = zip(*line.decoder.positions)
    assert times == (0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 7)
    assert rows == (0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7)
    assert columns == (0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7)
    plain = tokenise(pieces, [0], tokenizer)
    assert [position[0] for position in plain.decoder.positions] == list(range(11))


def test_frames_of_a_film_go_on_in_time(tokenizer: TextTokenizer) -> None:
    film = Slots(picture=0, entries=range(8), grid=Grid(columns=2, rows=1), frames=4)
    line = tokenise([film, Control(token=TURNS.end)], [0], tokenizer, grid_positions=True)
    assert line.decoder.positions == [(t, 0, c) for t in range(4) for c in range(2)] + [(4, 4, 4)]


def mllama(tokenizer: TextTokenizer, ids: list[int]) -> list[list[int]]:
    """Spans [first token, one past the last] in which each picture is seen, for a sequence in which 9 is a picture and others are texts; -1 = to the end."""
    pieces: list[Piece] = []
    pictures = 0
    for token in ids:
        if token == 9:
            pieces += [Slots(picture=pictures, entries=(0,), stream="memory", crop=0), Control(token=TURNS.controls[0], picture=pictures)]
            pictures += 1
        else:
            pieces.append(Control(token=TURNS.end))
    line = tokenise(pieces, list(range(pictures)), tokenizer)
    spans = []
    for picture in range(pictures):
        seeing = [place for place, (low, high) in enumerate(line.sees) if low <= picture < high]
        assert seeing == list(range(seeing[0], seeing[-1] + 1))
        spans.append([seeing[0], seeing[-1] + 1])
    return spans


@pytest.mark.parametrize(
    ("ids", "spans"),
    [([9, 1, 2, 3], [[0, 4]]), ([9, 9, 1, 2], [[0, 4], [1, 4]]), ([9, 1, 9, 2, 3], [[0, 2], [2, 5]]), ([1, 9, 9, 1, 9, 1], [[1, 4], [2, 4], [4, 6]])],
)
def test_text_sees_the_last_run_of_pictures(tokenizer: TextTokenizer, ids: list[int], spans: list[list[int]]) -> None:
    assert mllama(tokenizer, ids) == spans


@pytest.mark.parametrize("stream", ["decoder", "memory"])
def test_tags_see_their_tile_alone_or_travel_with_it(tokenizer: TextTokenizer, stream: StreamName) -> None:
    tag = word(tokenizer)
    pieces: list[Piece] = []
    for crop in range(3):
        pieces += [Words(text=tag, sees=crop, picture=0, stream=stream), Slots(picture=0, entries=range(4 * crop, 4 * crop + 4), crop=crop, stream="memory")]
    line = tokenise([*pieces, Control(token=TURNS.end)], [0], tokenizer)
    if stream == "decoder":
        assert line.sees == [(0, 4), (4, 8), (8, 12), (0, 12)]
        assert line.memory.entries == list(range(12))
    else:
        assert line.sees == [(0, 15)]
        assert line.memory.slots == [1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14]


def test_adjacent_wraps_are_written_once(tokenizer: TextTokenizer) -> None:
    wrap = Control(token=TURNS.controls[0], merge=True)
    pieces: list[Piece] = [wrap, Slots(picture=0, entries=(0,)), wrap, wrap, Slots(picture=1, entries=(0,)), wrap, Control(token=TURNS.controls[0])]
    line = tokenise(pieces, [0, 1], tokenizer)
    assert len(line.decoder.ids) == 6
    assert line.decoder.slots == [1, 3]


def test_vectors_of_a_layout_keep_their_numbers(tokenizer: TextTokenizer) -> None:
    line = tokenise([Slots(picture=1, entries=(0, 2, -1, 3, -2))], [0, 10], tokenizer)
    assert line.decoder.entries == [10, 12, -1, 13, -2]


def test_a_prompt_in_memory_is_seen_whole_from_the_start_token_on(tokenizer: TextTokenizer) -> None:
    pieces: list[Piece] = [
        Words(text="How many ships?", stream="memory"),
        Words(text="Three", answer=True, weight=1.0),
        Control(token=TURNS.end, answer=True, weight=1.0),
    ]
    line = tokenise(pieces, [0], tokenizer, start=7)
    assert line.decoder.ids[0] == 7
    assert line.answers == list(range(len(line.decoder.ids) - 1))
    assert set(line.sees) == {(0, len(line.memory.ids))}


def test_a_trunk_ends_where_positions_or_sight_differ() -> None:
    def made(ids: list[int], sees: list[tuple[int, int]], positions: list[int]) -> Line:
        return Line(decoder=Strand(ids=ids, positions=[(p, p, p) for p in positions]), sees=sees, prompt=len(ids))

    first = made([1, 2, 3], [(0, 0), (0, 4), (0, 4)], [0, 1, 2])
    assert common_prefix([first, made([1, 2, 3], [(0, 0), (0, 4), (4, 8)], [0, 1, 2])]) == 2
    assert common_prefix([first, made([1, 2, 3], [(0, 0), (0, 4), (0, 4)], [0, 5, 6])]) == 1
    assert common_prefix([first, made([1, 2, 3, 4], [(0, 0), (0, 4), (0, 4), (0, 4)], [0, 1, 2, 3])]) == 3

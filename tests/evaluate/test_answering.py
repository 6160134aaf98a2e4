"""The local answerer: golden requests prove a saved model, answers are found under their keys, pictures are looked at once and never forgotten too early."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sightline.errors import Refused
from sightline.evaluate import answering
from sightline.evaluate import looked as looked_module
from sightline.evaluate.answering import LocalAnswerer, conversation, load_answerer
from sightline.evaluate.golden import check_golden, write_golden
from sightline.lineage import sha256_bytes
from sightline.model import directory
from sightline.model.assembly import ModelConfig
from sightline.model.connectors import MlpConnector
from sightline.model.encoders import EncoderConfig
from sightline.model.language import LanguageModelConfig
from sightline.model.processor import Processor
from sightline.model.text_tower import TextEncoderConfig
from sightline.model.tiling import WholeTiler
from sightline.model.tokens import train_tokenizer
from sightline.model.vlm import Model
from sightline.samples.exchange import Decoding, Request
from sightline.samples.sample import Origin, Picture, Sample, Show, Text, Turn

ENCODER = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
DECODER = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
}


def picture(seed: int) -> Picture:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)).save(stream, "PNG")
    return Picture(hash=sha256_bytes(stream.getvalue()), width=12, height=9, data=stream.getvalue())


def asked(question: str, *pictures: Picture, name: str = "s") -> Sample:
    """The pictures stand after the question."""
    turn = Turn(role="user", items=(Text(text=question), *(Show(picture=number) for number in range(len(pictures)))))
    return Sample(id=name, pictures=pictures, turns=(turn,), origin=Origin(source="test"))


GOLDEN = [asked("How many ships?", picture(1)), asked("Where is it?", picture(2)), asked("yes?")]  # one id for all: rows of several sources may share theirs


@pytest.fixture(scope="module")
def answerer() -> LocalAnswerer:
    config = ModelConfig(
        encoders=[EncoderConfig(config=ENCODER)],
        tiler=WholeTiler(size=8),
        connector=MlpConnector(),
        language_model=LanguageModelConfig(config=DECODER, attention="eager"),
    )
    tokenizer = train_tokenizer(["How many ships? Where is it? yes no"], 300, config.chat_format())
    torch.manual_seed(0)
    return LocalAnswerer(Model(config), Processor(config.resolve(tokenizer.size), tokenizer), "weights", batch=2)


@pytest.fixture
def saved(answerer: LocalAnswerer, tmp_path: Path) -> Path:
    """A model directory with golden requests."""
    directory.save(tmp_path, answerer.model, answerer.processor)
    told = [(sample, next(answerer.answer([Request(sample=sample, decoding=Decoding(max_tokens=5))]))) for sample in GOLDEN]
    write_golden(tmp_path, answerer.model, answerer.processor, told)
    return tmp_path


def change_one_weight(folder: Path) -> None:
    model, processor, _ = directory.load(folder)
    with torch.no_grad():
        assert model.language_model is not None
        model.language_model.model.model.layers[0].mlp.down_proj.weight[3, 4] += 10
    directory.save(folder, model, processor)


def test_a_saved_model_says_what_it_said(saved: Path, answerer: LocalAnswerer) -> None:
    model, processor, _ = directory.load(saved)
    assert check_golden(saved, model, processor) < 1e-5
    rows = [json.loads(line) for line in (saved / "golden" / "requests.jsonl").read_text().splitlines()]
    assert [row["turns"][0]["items"] for row in rows] == [["How many ships?", 0], ["Where is it?", 0], ["yes?"]]
    assert [len(row["tokens"]) == len(row["logps"]) >= 1 for row in rows] == [True] * 3
    [alone] = answerer.answer([Request(sample=GOLDEN[1], decoding=Decoding(max_tokens=5))])
    assert rows[1]["tokens"] == list(alone.tokens) and rows[1]["text"] == alone.text


def test_a_changed_weight_is_refused_with_the_difference(saved: Path) -> None:
    change_one_weight(saved)
    model, processor, _ = directory.load(saved)
    with pytest.raises(
        Refused,
        match=r"evaluate/golden-differs at .*requests\.jsonl\n  found:   mean \|difference\| [\d.]+ of \d+ golden numbers\n  allowed: <= 0\.001",
    ):
        check_golden(saved, model, processor)
    with pytest.raises(Refused, match="evaluate/golden-differs"):
        load_answerer(saved)
    assert load_answerer(saved, check=False).weights


def test_a_dual_tower_carries_its_vectors(tmp_path: Path) -> None:
    tower = {"model_type": "clip_text_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ModelConfig(encoders=[EncoderConfig(config=ENCODER)], tiler=WholeTiler(size=8), text_encoder=TextEncoderConfig(config=tower, width=6))
    tokenizer = train_tokenizer(["a ship, a road"], 300, config.chat_format())
    torch.manual_seed(1)
    model = Model(config.resolve(tokenizer.size)).eval()
    processor = Processor(model.config, tokenizer)
    directory.save(tmp_path, model, processor)
    write_golden(tmp_path, model, processor, pairs=[(GOLDEN[0], "a ship"), (GOLDEN[1], "a road")])
    again, read, _ = directory.load(tmp_path)
    assert check_golden(tmp_path, again, read) < 1e-6
    with torch.no_grad():
        again.text_encoder.text_projection.weight[0, 0] += 3  # pyright: ignore[reportOptionalMemberAccess]
    with pytest.raises(Refused, match="evaluate/golden-differs"):
        check_golden(tmp_path, again, read)


def test_a_changed_picture_or_prompt_is_refused(saved: Path) -> None:
    model, processor, _ = directory.load(saved)
    [first, *_] = sorted((saved / "golden").glob("*.bin"))
    first.write_bytes((saved / "golden" / "01-0.bin").read_bytes())
    with pytest.raises(Refused, match="evaluate/golden-differs"):
        check_golden(saved, model, processor)


def test_a_model_without_golden_requests_is_refused_unless_told_so(answerer: LocalAnswerer, tmp_path: Path) -> None:
    directory.save(tmp_path, answerer.model, answerer.processor)
    with pytest.raises(Refused, match=r"evaluate/no-golden at .*requests\.jsonl"):
        load_answerer(tmp_path)
    assert load_answerer(tmp_path, check=False).model.abilities == ("write",)
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "requests.jsonl").write_text('{"pictures": [], "turns": []}\n', encoding="utf-8")
    with pytest.raises(Refused, match=r"evaluate/earlier-golden at .*requests\.jsonl:1"):
        load_answerer(tmp_path)


def test_the_check_is_remembered_per_weights_and_precision(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(answering, "check_golden", lambda folder, model, processor, precision: made.append(precision) or 0.0)
    load_answerer(saved)
    load_answerer(saved)
    load_answerer(saved, precision="bfloat16")
    assert made == ["float32", "bfloat16"]
    change_one_weight(saved)
    load_answerer(saved)
    assert made == ["float32", "bfloat16", "float32"]
    assert list(json.loads((saved / "golden" / "checked.json").read_text()).values()) == [0.0] * 3


def test_answers_do_not_depend_on_their_company(answerer: LocalAnswerer) -> None:
    requests = [
        Request(sample=asked(question, picture(seed), name=question), decoding=Decoding(max_tokens=6))
        for seed, question in enumerate(("How many?", "no", "Where is it?", "yes yes?", "it"))
    ]
    together = {answer.sample: answer for answer in answerer.answer(requests)}
    assert set(together) == {request.sample.id for request in requests}
    for request in requests:
        [alone] = answerer.answer([request])
        found = together[request.sample.id]
        assert (found.tokens, found.text, found.key, found.finish) == (alone.tokens, alone.text, alone.key, alone.finish)
        assert found.logps == pytest.approx(alone.logps, abs=1e-4)
        assert found.key == answerer.key(request) and found.weights == "weights" and all(logp <= 0 for logp in found.logps)
        assert answerer.measure(request.sample) == answerer.processor.encode(request.sample, answer=False).length


def test_the_key_names_everything_an_answer_depends_on(answerer: LocalAnswerer) -> None:
    plain = Request(sample=asked("no", picture(1)))
    others = [
        Request(sample=asked("yes", picture(1))),
        Request(sample=asked("no", picture(2))),
        Request(sample=asked("no")),
        Request(sample=asked("no", picture(1)), decoding=Decoding(max_tokens=3)),
    ]
    keys = {answerer.key(request) for request in (plain, *others)}
    keys.add(LocalAnswerer(answerer.model, answerer.processor, "other weights").key(plain))
    keys.add(LocalAnswerer(answerer.model, answerer.processor, "weights", precision="bfloat16").key(plain))
    assert len(keys) == 7 and answerer.key(Request(sample=asked("no", picture(1), name="another row"))) in keys


def test_pictures_are_looked_at_once_and_not_forgotten_while_a_batch_needs_them(answerer: LocalAnswerer, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    encode = looked_module.encode
    monkeypatch.setattr(looked_module, "encode", lambda model, pictures, precision: looked.append(len(pictures.tilings)) or encode(model, pictures, precision))
    monkeypatch.setattr(looked_module, "KEPT_BYTES", 2 * 9 * 8 * 4)
    fresh = LocalAnswerer(answerer.model, answerer.processor, "weights", batch=2)
    order = [(0, "no"), (1, "no"), (0, "yes yes"), (2, "yes yes")]  # the oldest comes back beside a new one
    found = list(fresh.answer([Request(sample=asked(question, picture(seed)), decoding=Decoding(max_tokens=2)) for seed, question in order]))
    assert len(found) == 4 and looked == [1, 1, 1]


def test_sampling_is_seeded_and_greedy_is_the_most_likely(answerer: LocalAnswerer) -> None:
    def draw(**said: float) -> tuple[int, ...]:
        [answer] = answerer.answer([Request(sample=asked("no", picture(1)), decoding=Decoding(max_tokens=6, **said))])  # pyright: ignore[reportArgumentType]
        return answer.tokens

    assert draw(temperature=2.0, seed=1) == draw(temperature=2.0, seed=1)
    assert len({draw(temperature=2.0, seed=seed) for seed in range(4)}) > 1
    assert draw(temperature=1.0, top_p=1e-6, seed=3) == draw()  # a nucleus of one token


def test_stop_texts_cut_the_answer(answerer: LocalAnswerer) -> None:
    [whole] = answerer.answer([Request(sample=asked("no", picture(1)), decoding=Decoding(max_tokens=6))])
    stop = whole.text[2:4]
    [cut] = answerer.answer([Request(sample=asked("no", picture(1)), decoding=Decoding(max_tokens=6, stop=(stop,)))])
    assert whole.finish == "length" and cut.finish == "stop" and cut.text == whole.text[: whole.text.index(stop)]


def test_asks_that_it_does_not_know_are_refused(answerer: LocalAnswerer) -> None:
    with pytest.raises(Refused, match=r"evaluate/ask[^$]*found:   embed, score\n  allowed: write"):
        list(answerer.answer([Request(sample=asked("no"), ask="score"), Request(sample=asked("no"), ask="embed")]))


def test_a_conversation_shows_its_pictures_once(answerer: LocalAnswerer) -> None:
    sample = conversation([picture(1), picture(2)], [("How many?", "two")], "Where?")
    assert [turn.role for turn in sample.turns] == ["user", "assistant", "user"]
    assert [item for turn in sample.turns for item in turn.items if isinstance(item, Show)] == [Show(picture=0), Show(picture=1)]
    answer = answerer.ask([picture(1)], [], "Where?", Decoding(max_tokens=2))
    assert answer.sample == "chat" and len(answer.tokens) <= 2

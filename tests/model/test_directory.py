"""The model directory: what is loaded is what was saved, unchanged parts are the same file, and damage is named file by file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import tiny_models as tiny
import torch
from safetensors.torch import load_file, save_file

from sightline.errors import Refused
from sightline.model import directory
from sightline.model.chat import CHAT_FORMATS
from sightline.model.processor import Processor
from sightline.model.text_tower import TextEncoderConfig
from sightline.model.vlm import Model

TOWER = {"model_type": "clip_text_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 400}
SAMPLE = tiny.sample(tiny.turn("user", 0, "How many ships?"), tiny.turn("assistant", "Three ships."), pictures=[tiny.picture()])


@pytest.fixture
def made() -> tuple[Model, Processor]:
    """Every part, with tied embeddings."""
    text = TextEncoderConfig(config=TOWER | {"eos_token_id": 0, "bos_token_id": 0}, width=8, loss="sigmoid", tags=True)
    config = tiny.writer("qwen2", text_encoder=text, language_model=tiny.language("qwen2", tie_word_embeddings=True))
    return tiny.built(config.resolve(), tiny.byte_level(CHAT_FORMATS["turns"], Path()))


def files(folder: Path) -> dict[str, int]:
    return {path.name: os.stat(path).st_ino for path in sorted(folder.glob("*.safetensors"))}


def saved(folder: Path, model: Model, processor: Processor, parent: Path | None = None) -> str:
    folder.mkdir()
    return directory.save(folder, model, processor, parent)


def test_what_is_loaded_is_bit_identical(made: tuple[Model, Processor], tmp_path: Path) -> None:
    model, processor = made
    weights = saved(tmp_path / "a", model, processor)
    loaded, again, found = directory.load(tmp_path / "a")
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert found == weights and ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not loaded.training and loaded.config == directory.without_checkpoints(model.config) and again.chat == processor.chat
    assert loaded.language_model is not None
    assert loaded.language_model.model.lm_head.weight is loaded.language_model.model.model.embed_tokens.weight
    batch = processor.collate([[processor.encode(SAMPLE)]])
    assert torch.equal(loaded(again.collate([[again.encode(SAMPLE)]])).logp, model(batch).logp)
    assert saved(tmp_path / "b", loaded, again) == weights  # and the id is stable through a round trip
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}


def test_the_folder_is_self_contained_and_shaped_as_others_expect(made: tuple[Model, Processor], tmp_path: Path) -> None:
    model, processor = made
    saved(tmp_path / "a", model, processor)
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names >= {
        "config.json",
        "processor.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        directory.INDEX,
    }
    assert set(files(tmp_path / "a")) == {f"{part}-00001-of-00001.safetensors" for part in ("encoders.vision", "connector", "language_model", "text_encoder")}
    head = json.loads((tmp_path / "a" / "config.json").read_text())
    assert (head["model_type"], head["format"], head["abilities"]) == ("sightline", 1, ["write", "embed"])
    index = json.loads((tmp_path / "a" / directory.INDEX).read_text())
    stored = {name for file in files(tmp_path / "a") for name in load_file(tmp_path / "a" / file)}
    assert set(index["weight_map"]) == stored
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in directory.read_tensors(tmp_path / "a").values())
    assert not any("embed_tokens" in name for name in stored if name.startswith("language_model"))  # tied: written once, as lm_head
    generation = json.loads((tmp_path / "a" / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (processor.tokenizer.end_id, processor.tokenizer.pad_id)


def test_an_unchanged_part_is_the_same_file(made: tuple[Model, Processor], tmp_path: Path) -> None:
    model, processor = made
    first = saved(tmp_path / "a", model, processor)
    assert saved(tmp_path / "same", model, processor, tmp_path / "a") == first
    assert files(tmp_path / "same") == files(tmp_path / "a")
    assert model.connector is not None
    with torch.no_grad():
        model.connector.layers[0].bias[0] += 1  # pyright: ignore[reportIndexIssue, reportOperatorIssue, reportArgumentType]
    assert saved(tmp_path / "b", model, processor, tmp_path / "a") != first
    before, after = files(tmp_path / "a"), files(tmp_path / "b")
    assert {name for name in before if before[name] != after[name]} == {"connector-00001-of-00001.safetensors"}
    loaded, _, _ = directory.load(tmp_path / "b")
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_big_parts_are_written_in_several_files(made: tuple[Model, Processor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = made
    whole = saved(tmp_path / "a", model, processor)
    monkeypatch.setattr(directory, "_SHARD_BYTES", 20_000)
    assert saved(tmp_path / "b", model, processor) == whole
    series = [name for name in files(tmp_path / "b") if name.startswith("language_model-")]
    assert len(series) > 2 and series[-1] == f"language_model-{len(series):05d}-of-{len(series):05d}.safetensors"
    assert saved(tmp_path / "c", model, processor, tmp_path / "b") == whole and files(tmp_path / "c") == files(tmp_path / "b")
    loaded, _, found = directory.load(tmp_path / "c")
    assert found == whole and all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_the_id_is_of_shapes_and_numbers_whatever_the_float_on_disk() -> None:
    base = torch.zeros(2, 3)
    others = [torch.zeros(3, 2), torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3).index_fill(0, torch.tensor([1]), 1.0), torch.zeros(6)]
    assert directory.tensor_digest(base) == directory.tensor_digest(torch.zeros(3, 2).T)
    assert directory.tensor_digest(base) == directory.tensor_digest(base.bfloat16())
    assert len({directory.tensor_digest(tensor) for tensor in (base, *others)}) == 5


def test_missing_tensors_and_wrong_shapes_are_listed_all_at_once(made: tuple[Model, Processor], tmp_path: Path) -> None:
    saved(tmp_path / "a", *made)
    path = tmp_path / "a" / "connector-00001-of-00001.safetensors"
    tensors = load_file(path)
    del tensors["connector.layers.0.bias"], tensors["connector.layers.2.weight"]
    tensors["connector.layers.2.bias"] = torch.zeros(3)
    save_file(tensors, path)
    with pytest.raises(Refused) as refused:
        directory.load(tmp_path / "a")
    assert [(problem.code, problem.place.split(":")[-1]) for problem in refused.value.problems] == [
        ("model/missing-weights", "connector.layers.0.bias"),
        ("model/shape-mismatch", "connector.layers.2.bias"),
        ("model/missing-weights", "connector.layers.2.weight"),
    ]
    assert "found:   shape (3,)\n  allowed: shape (32,) by the config" in str(refused.value)


def test_truncated_and_absent_files_are_named(made: tuple[Model, Processor], tmp_path: Path) -> None:
    saved(tmp_path / "a", *made)
    path = tmp_path / "a" / "encoders.vision-00001-of-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(Refused, match=rf"model/broken-weights at {path}\n"):
        directory.load(tmp_path / "a")
    path.unlink()
    with pytest.raises(Refused, match=rf"model/broken-weights at {path}\n"):
        directory.load(tmp_path / "a")


@pytest.mark.parametrize("escape", ["../outside.safetensors", "/outside.safetensors", "sub/inside.safetensors"])
def test_an_index_that_leaves_the_folder_is_refused(made: tuple[Model, Processor], tmp_path: Path, escape: str) -> None:
    saved(tmp_path / "a", *made)
    save_file({"x": torch.zeros(1)}, tmp_path / "outside.safetensors")
    path = tmp_path / "a" / directory.INDEX
    index = json.loads(path.read_text())
    index["weight_map"]["connector.layers.0.bias"] = escape
    path.write_text(json.dumps(index))
    with pytest.raises(Refused, match=rf"model/path-escape at {path}\n  found:   {escape}"):
        directory.load(tmp_path / "a")


def test_what_is_no_model_directory_is_refused(made: tuple[Model, Processor], tmp_path: Path) -> None:
    with pytest.raises(Refused, match=rf"model/not-a-model at {tmp_path}\n  found:   no config\.json"):
        directory.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(Refused, match=r"found:   model_type 'llama', format None\n  allowed: a Sightline model directory of format 1"):
        directory.load(tmp_path)
    saved(tmp_path / "a", *made)
    head = json.loads((tmp_path / "a" / "config.json").read_text())
    for broken in ({**head, "settings": {**head["settings"], "wings": 2}}, {key: value for key, value in head.items() if key != "parts"}):
        (tmp_path / "a" / "config.json").write_text(json.dumps(broken))
        with pytest.raises(Refused, match=r"model/broken-config at .*config\.json"):
            directory.load(tmp_path / "a")


def test_only_the_parts_asked_for_are_filled(made: tuple[Model, Processor], tmp_path: Path) -> None:
    model, processor = made
    saved(tmp_path / "a", model, processor)
    other, _ = tiny.built(model.config, processor.tokenizer, seed=5)
    directory.fill(other, directory.read_tensors(tmp_path / "a"), "a", "connector")
    assert model.connector is not None and other.connector is not None
    assert all(torch.equal(a, b) for a, b in zip(model.connector.parameters(), other.connector.parameters()))
    same = [torch.equal(a, b) for a, b in zip(model.encoders.parameters(), other.encoders.parameters())]
    assert not all(same)


def test_the_model_of_a_run_is_the_last_that_its_graph_names(made: tuple[Model, Processor], tmp_path: Path) -> None:
    for name in ("01-see", "02-read", "03-left-over"):
        (tmp_path / "stages" / name).mkdir(parents=True)
        saved(tmp_path / "stages" / name / "model", *made)
    (tmp_path / "stages" / "04-unfinished" / "model").mkdir(parents=True)
    nodes = [{"name": f"stages/{name[3:]}", "artifact": f"stages/{name}/model"} for name in ("01-see", "02-read", "04-unfinished")]
    (tmp_path / "graph.json").write_text(json.dumps([{"name": "data/x", "artifact": "data/x"}, *nodes]))
    assert directory.model_folder(tmp_path) == tmp_path / "stages" / "02-read" / "model"
    assert directory.model_folder(tmp_path / "stages" / "01-see") == tmp_path / "stages" / "01-see" / "model"
    assert directory.model_folder(tmp_path / "stages" / "01-see" / "model") == tmp_path / "stages" / "01-see" / "model"
    with pytest.raises(Refused, match=r"model/not-a-model at .*04-unfinished\n  found:   no model directory\n  allowed: a run with a finished stage"):
        directory.model_folder(tmp_path / "stages" / "04-unfinished")

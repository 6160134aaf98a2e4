"""Model directories of published checkpoints: every spelling, dtype and file layout comes back; what does not fit is listed; what was trained or composed is written."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import native_models
import pytest
import tiny_models
import torch
import transformers as hf
from native_models import CASES
from safetensors.torch import load_file, save_file
from tiny_models import sample, turn
from torch import Tensor

from sightline.errors import Refused
from sightline.model import directory
from sightline.model.chat import CHAT_FORMATS
from sightline.model.connectors import MlpConnector
from sightline.model.native import native_directory, native_weights
from sightline.model.native.native_table import NATIVE_FORMATS
from sightline.model.tokens import train_tokenizer

LLAVA = CASES["llava"]


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> native_models.Checkpoint:
    return native_models.published(LLAVA, tmp_path_factory.mktemp("llava"))


def variant(folder: Path, source: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None) -> Path:
    """A copy of a checkpoint, with other tensors."""
    shutil.copytree(source, folder)
    if change is not None:
        save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def settings(folder: Path, name: str, **changes: Any) -> None:
    """Keys of a settings file changed; None takes a key away."""
    said = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps({key: value for key, value in said.items() if value is not None}))


def logits(folder: Path) -> Tensor:
    """Ours, of a model directory or a published folder, for one sample."""
    head = json.loads((folder / "config.json").read_text())
    model, processor, _ = directory.load(folder) if head["model_type"] == "sightline" else native_directory.load_published(folder)
    encoded = processor.encode(sample(turn("user", 0, "Where?"), turn("assistant", "In the harbor."), pictures=[native_models.photo(0, 61, 33)]))
    return native_models.our_logits(model, processor, encoded)[1]


def same(one: Path, other: Path) -> None:
    """Same files, same tensors in them, same settings."""
    names = {path.name for path in one.iterdir()}
    assert {path.name for path in other.iterdir()} == names
    for name in names:
        if name.endswith(".safetensors"):
            before, after = load_file(one / name), load_file(other / name)
            assert before.keys() == after.keys()
            assert [key for key in before if before[key].dtype != after[key].dtype or not torch.equal(before[key], after[key])] == []
        elif name.endswith(".json"):
            assert json.loads((one / name).read_text()) == json.loads((other / name).read_text()), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_stay_halves(dtype: torch.dtype, tmp_path: Path) -> None:
    published = native_models.published(LLAVA, tmp_path / "published", dtype).folder
    native_directory.import_(published, tmp_path / "model")
    held = [tensor.dtype for file in (tmp_path / "model").glob("*.safetensors") for tensor in load_file(file).values()]
    assert set(held) == {dtype}
    native_directory.export(tmp_path / "model", tmp_path / "back")
    same(published, tmp_path / "back")
    assert torch.equal(logits(tmp_path / "model"), logits(published))


def in_memory(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {
        "language_model.lm_head.": "lm_head.",
        "language_model.model.": "model.language_model.",
        "vision_tower.": "model.vision_tower.vision_model.",
        "multi_": "model.multi_",
    }
    found = {}
    for name, tensor in tensors.items():
        head = next(head for head in renamed if name.startswith(head))
        found[renamed[head] + name.removeprefix(head)] = tensor
    return found


def test_other_spellings_buffers_and_shards_come_back(llava: native_models.Checkpoint, tmp_path: Path) -> None:
    published = variant(tmp_path / "published", llava.folder)
    tensors = in_memory(load_file(published / "model.safetensors"))
    tensors["model.vision_tower.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    (published / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {f"model-0000{number + 1}-of-00002.safetensors": names[number::2] for number in range(2)}
    for file, held in files.items():
        save_file({name: tensors[name] for name in held}, published / file, metadata={"format": "pt"})
    weight_map = {name: file for file, held in files.items() for name in held}
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    (published / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    native_directory.import_(published, tmp_path / "model")
    native_directory.export(tmp_path / "model", tmp_path / "back")
    same(published, tmp_path / "back")
    assert torch.equal(logits(tmp_path / "model"), logits(llava.folder))


def test_a_tied_head_that_is_stored_comes_back_and_a_different_one_is_refused(tmp_path: Path) -> None:
    folder = native_models.published(CASES["qwen2-vl"], tmp_path / "saved").folder
    table = "model.embed_tokens.weight"
    published = variant(tmp_path / "published", folder, lambda tensors: tensors | {"lm_head.weight": tensors[table].clone()})
    native_directory.import_(published, tmp_path / "model")
    native_directory.export(tmp_path / "model", tmp_path / "back")
    same(published, tmp_path / "back")
    other = variant(tmp_path / "other", folder, lambda tensors: tensors | {"lm_head.weight": tensors[table] + 1})
    tied = "language_model.model.model.embed_tokens.weight and language_model.model.lm_head.weight"
    with pytest.raises(Refused, match=f"model/tied-weights(?s:.*){tied}"):
        native_weights.load(other)


def test_tensors_that_are_stored_twice_come_back_twice(tmp_path: Path) -> None:
    folder = native_models.published(CASES["blip"], tmp_path / "saved").folder
    head, words, bias = "text_decoder.cls.predictions.", "text_decoder.bert.embeddings.word_embeddings.weight", "text_decoder.cls.predictions.bias"

    def twice(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return tensors | {f"{head}decoder.weight": tensors[words].clone(), f"{head}decoder.bias": tensors[bias].clone()}

    published = variant(tmp_path / "published", folder, twice)
    native_directory.import_(published, tmp_path / "model")
    native_directory.export(tmp_path / "model", tmp_path / "back")
    same(published, tmp_path / "back")
    with pytest.raises(Refused, match=r"model/tied-weights(?s:.*)predictions\.decoder\.bias and"):
        native_weights.load(variant(tmp_path / "other", folder, lambda tensors: tensors | {f"{head}decoder.bias": tensors[bias] + 1}))


def test_flat_settings_mean_what_nested_ones_mean(tmp_path: Path) -> None:
    nested = native_models.published(CASES["qwen2-vl"], tmp_path / "nested").folder
    flat = variant(tmp_path / "flat", nested)
    said = json.loads((flat / "config.json").read_text())
    text = said.pop("text_config")
    text.pop("model_type")
    rope = text.pop("rope_parameters")
    rope_scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    (flat / "config.json").write_text(json.dumps({**text, **said, "rope_theta": rope["rope_theta"], "rope_scaling": rope_scaling, "torch_dtype": "float32"}))
    assert native_weights.load(flat).config == native_weights.load(nested).config
    native_directory.import_(flat, tmp_path / "model")
    native_directory.export(tmp_path / "model", tmp_path / "back")
    same(flat, tmp_path / "back")


def test_all_tensors_that_do_not_fit_are_listed(llava: native_models.Checkpoint, tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors.pop("multi_modal_projector.linear_1.bias")
        tensors["vision_tower.pre_layrnorm.weight"] = torch.zeros(7)
        return tensors | {"vision_tower.stray": torch.zeros(1)}

    with pytest.raises(Refused) as refused:
        native_weights.load(variant(tmp_path / "changed", llava.folder, change))
    assert [(problem.code, problem.found) for problem in refused.value.problems] == [
        ("model/missing-weights", "1 tensors are not in the checkpoint: connector.layers.0.bias"),
        ("model/unknown-weights", "1 tensors have no place: encoders.vision.tower.stray"),
        ("model/shape-mismatch", "1 tensors have another shape: encoders.vision.tower.pre_layrnorm.weight (7,), by the config (32,)"),
    ]


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"model_type": "gpt2"}, r"model/native-format(?s:.*)'gpt2'(?s:.*)llava_next"),
        ("config.json", {"projector_hidden_act": "relu"}, r"model/native-config(?s:.*)projector_hidden_act: relu"),
        (
            "preprocessor_config.json",
            {"do_normalize": False, "rescale_factor": 1.0},
            r"model/native-preprocessor(?s:.*)do_normalize: false, rescale_factor: 1.0",
        ),
        ("preprocessor_config.json", {"resample": 4}, r"resample: 4(?s:.*)0 nearest"),
        ("preprocessor_config.json", {"crop_size": {"height": 28, "width": 30}}, r"crop_size: .*30(?s:.*)a square"),
    ],
)
def test_settings_that_no_part_does_are_refused(llava: native_models.Checkpoint, tmp_path: Path, file: str, changes: dict[str, Any], message: str) -> None:
    folder = variant(tmp_path / "changed", llava.folder)
    settings(folder, file, **changes)
    with pytest.raises(Refused, match=message):
        native_directory.load_published(folder)


def test_a_folder_without_a_config_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"model/not-published(?s:.*)no config\.json"):
        native_weights.load(tmp_path)


class Trap:
    """What a pickle runs when it is opened without care."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemExit('it ran')",))


def test_pickles_are_read_as_tensors_alone(llava: native_models.Checkpoint, tmp_path: Path) -> None:
    folder = variant(tmp_path / "pickled", llava.folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert torch.equal(logits(folder), logits(llava.folder))
    native_directory.import_(folder, tmp_path / "model")
    native_directory.export(tmp_path / "model", tmp_path / "back")
    same(llava.folder, tmp_path / "back")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Trap()}))
    with pytest.raises(Refused, match="model/checkpoint-not-read"):
        native_weights.load(folder)


TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'user' %}<s>[Q] {{ message.content }} [/Q]{% else %}{{ message.content }}</s>{% endif %}{% endfor %}"
)


def test_the_chat_template_is_read(llava: native_models.Checkpoint, tmp_path: Path) -> None:
    folder = variant(tmp_path / "spoken", llava.folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    native = native_weights.load(folder)
    chat = native.config.chat_format()
    assert (chat.user.before, chat.user.after, chat.end, native.problems) == ("<s>[Q] ", " [/Q]", "</s>", ())
    assert chat.pictures == CHAT_FORMATS["vicuna"].pictures
    native_directory.import_(folder, tmp_path / "model")
    assert directory.load(tmp_path / "model")[1].chat == chat
    native_directory.export(tmp_path / "model", tmp_path / "back")
    assert (tmp_path / "back" / "chat_template.jinja").read_text() == TEMPLATE


def test_a_template_of_another_form_is_told_and_the_table_is_used(llava: native_models.Checkpoint, tmp_path: Path) -> None:
    folder = variant(tmp_path / "spoken", llava.folder)
    (folder / "chat_template.jinja").write_text("{{ messages | length }} messages")
    native = native_weights.load(folder)
    [problem] = native.problems
    assert (problem.code, problem.severity, problem.fix) == ("model/chat-template", "warn", "chat format 'vicuna' is used instead")
    assert native.config.chat == "vicuna"


def test_what_was_trained_is_written(llava: native_models.Checkpoint, tmp_path: Path) -> None:
    native_directory.import_(llava.folder, tmp_path / "model")
    model, processor, _ = directory.load(tmp_path / "model")
    with torch.no_grad():
        for parameter in model.connector.parameters():
            parameter += 0.1
    (tmp_path / "trained").mkdir()
    directory.save(tmp_path / "trained", model, processor)
    shutil.copytree(tmp_path / "model" / native_directory.RECORD, tmp_path / "trained" / native_directory.RECORD, dirs_exist_ok=True)
    native_directory.export(tmp_path / "trained", tmp_path / "back")
    encoded = processor.encode(sample(turn("user", 0, "Where?"), turn("assistant", "In the harbor."), pictures=[native_models.photo(0, 61, 33)]))
    batch, ours = native_models.our_logits(model, processor, encoded)
    loaded = hf.LlavaForConditionalGeneration.from_pretrained(tmp_path / "back").eval()
    theirs = native_models.their_logits(LLAVA, llava, loaded, batch, [native_models.photo(0, 61, 33)])
    assert ((ours - theirs).abs().max() / theirs.abs().max()).item() <= 1e-5


def composed(folder: Path, **changes: Any) -> Path:
    """A model directory that was never published: parts of a recipe."""
    config = tiny_models.writer(chat="vicuna", **changes)
    tokenizer = train_tokenizer(tiny_models.TEXTS, 300, CHAT_FORMATS["vicuna"])
    model, processor = tiny_models.built(config.resolve(), tokenizer)
    folder.mkdir()
    directory.save(folder, model, processor)
    return folder


def test_what_was_composed_is_written(tmp_path: Path) -> None:
    folder = composed(tmp_path / "model")
    assert native_directory.export(folder, tmp_path / "published", "llava") == []
    loaded, info = hf.LlavaForConditionalGeneration.from_pretrained(tmp_path / "published", output_loading_info=True)
    assert {key: value for key, value in info.items() if value} == {}
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "published")
    image = loaded.config.image_token_index
    assert tokenizer.convert_tokens_to_ids("<image>") == image
    model, processor, _ = directory.load(folder)
    picture = native_models.photo(0, 61, 33)
    encoded = processor.encode(sample(turn("user", 0, "Where?"), turn("assistant", "In the harbor."), pictures=[picture]))
    batch, ours = native_models.our_logits(model, processor, encoded)
    pictures = hf.AutoImageProcessor.from_pretrained(tmp_path / "published")
    checkpoint = native_models.Checkpoint(folder=tmp_path / "published", reference=loaded, pictures=pictures, image=image)
    theirs = native_models.their_logits(LLAVA, checkpoint, loaded.eval(), batch, [picture])
    assert ((ours - theirs).abs().max() / theirs.abs().max()).item() <= 1e-5
    assert native_weights.load(tmp_path / "published").config.connector == processor.config.connector


def test_a_model_that_was_read_in_one_format_is_written_in_another_where_both_say_it(llava: native_models.Checkpoint, tmp_path: Path) -> None:
    native_directory.import_(llava.folder, tmp_path / "model")
    with pytest.raises(Refused, match=r"model/native-parts at model\.tiler\n  found:   whole\n  allowed: llava-next(?s:.*)model\.layout"):
        native_directory.export(tmp_path / "model", tmp_path / "out", "llava_next")
    native_directory.export(tmp_path / "model", tmp_path / "out", "llava")
    same(llava.folder, tmp_path / "out")


def test_what_a_format_cannot_say_is_listed(tmp_path: Path) -> None:
    folder = composed(tmp_path / "deep", connector=MlpConnector(depth=3))
    with pytest.raises(Refused, match=r"model/native-cannot-say at model\.connector\.depth\n  found:   3\n  allowed: 2: what llava means"):
        native_directory.export(folder, tmp_path / "out", "llava")
    with pytest.raises(Refused, match=r"model/native-parts at model\.text_encoder(?s:.*)absent(?s:.*)allowed: transformers"):
        native_directory.export(folder, tmp_path / "out", "clip")
    with pytest.raises(Refused, match=r"model/native-format(?s:.*)not read from a published checkpoint(?s:.*)llava"):
        native_directory.export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_placeholder_needs_a_row(tmp_path: Path) -> None:
    size = train_tokenizer(tiny_models.TEXTS, 300, CHAT_FORMATS["vicuna"]).size
    folder = composed(tmp_path / "full", language_model=tiny_models.language(vocab_size=size))
    with pytest.raises(Refused, match=rf"model/native-token(?s:.*)<image> beside a tokenizer of {size} tokens(?s:.*)below {size}"):
        native_directory.export(folder, tmp_path / "out", "llava")


def test_no_config_is_taken_twice(llava: native_models.Checkpoint) -> None:
    said = json.loads((llava.folder / "config.json").read_text())
    assert [name for name, format_ in NATIVE_FORMATS.items() if format_.recognises(said)] == ["llava"]


def test_a_head_of_its_own_stays_one(tmp_path: Path) -> None:
    """Flan-T5 writes with other numbers than it reads with, although its class ties them."""
    folder = native_models.published(CASES["blip-2-t5"], tmp_path / "saved").folder
    table = "language_model.shared.weight"
    published = variant(tmp_path / "published", folder, lambda tensors: tensors | {"language_model.lm_head.weight": tensors[table] * -2})
    assert getattr(native_weights.load(published).config.language_model, "tied", True) is False
    model, _, _ = native_directory.load_published(published)
    head = load_file(published / "model.safetensors")["language_model.lm_head.weight"]
    assert torch.equal(model.language_model.model.lm_head.weight, head) and not torch.equal(model.language_model.model.shared.weight, head)
    native_directory.import_(published, tmp_path / "model")
    native_directory.export(tmp_path / "model", tmp_path / "back")
    same(published, tmp_path / "back")

"""Compositions that no published family says, as folders that stock transformers loads: the same tokens, the same numbers, no file that needs Sightline."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compositions import COMPOSITIONS, LLAMA, composition
from exported_models import SENT, SIZES, Sent, config_of, inputs_of, opened, our_logits, photo, send, send_config
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.errors import Refused
from sightline.export.remote_code import RemoteCodeExporter, code_files
from sightline.export.remote_code_files.picture_geometry import Geometry
from sightline.export.remote_code_files.plain_config import Config, Field
from sightline.model.assembly import ModelConfig
from sightline.model.pieces import Slots
from sightline.recipe import load

ALLOWED = {"torch", "transformers", "huggingface_hub", "PIL", "numpy"}
"""transformers does not work without its hub."""
QUICK = ("mined", "separated")
"""What make test does; make soak does all."""
STANDARD = {"__future__", "collections", "dataclasses", "functools", "importlib", "inspect", "itertools", "json", "math", "typing", "pathlib", "difflib"}


@pytest.fixture(scope="module", autouse=True)
def modules_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Code of exported folders is copied here and not into the user's cache."""
    from transformers import dynamic_module_utils

    patch = pytest.MonkeyPatch()
    patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
    yield
    patch.undo()


@pytest.fixture(scope="module", params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(SENT)])
def sent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    return send(request.param, tmp_path_factory.mktemp("sent"))


def test_files_import_nothing_of_ours(sent: Sent) -> None:
    files = sorted(sent.out.glob("*.py"))
    assert {"configuration_sightline.py", "modeling_sightline.py", "processing_sightline.py", "image_processing_sightline.py"} <= {path.name for path in files}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and (sent.out / f"{node.module}.py").is_file(), f"{path.name}: {ast.unparse(node)}"
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert {name.split(".")[0] for name in names} <= ALLOWED | STANDARD, f"{path.name}: {names}"


def test_tokens_and_logits_are_ours(sent: Sent) -> None:
    processor, model = sent.loaded
    for number, pictures in enumerate([[photo(*size)] for size in SIZES] + [[photo(*SIZES[0]), photo(*SIZES[1])]]):
        ids, ours = our_logits(sent, pictures, "How many ships?")
        inputs = inputs_of(processor, pictures, "How many ships?")
        assert inputs["input_ids"][0].tolist() == ids
        with torch.no_grad():
            theirs = model(**inputs).logits[0]
        assert ours.std().item() > 0.05, number
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def test_features_are_handed_out_by_picture(sent: Sent) -> None:
    processor, model = sent.loaded
    pictures = [photo(*size) for size in SIZES]
    inputs = processor.image_processor([opened(one) for one in pictures], return_tensors="pt")
    counts = processor._get_num_multimodal_tokens(image_sizes=[(height, width) for width, height in SIZES])
    with torch.no_grad():
        whole = model.get_image_features(**inputs, return_dict=True).pooler_output
        halves = model.get_image_features(inputs["pixel_values"].bfloat16(), inputs["picture_sizes"]).pooler_output
    assert [len(one) for one in whole] == counts["num_image_tokens"]
    assert sum(counts["num_image_patches"]) == len(inputs["pixel_values"])
    assert all(torch.equal(one, other) for one, other in zip(whole, halves, strict=True)), "pixels are whole numbers up to 255, which bfloat16 holds"


def test_generation_goes_on_from_its_cache(tmp_path: Path) -> None:
    processor, model = send("points", tmp_path).loaded
    inputs = inputs_of(processor, [photo(*SIZES[1])], "Where?")
    kept, again = (model.generate(**inputs, max_new_tokens=6, do_sample=False, use_cache=cached) for cached in (True, False))
    assert kept.tolist() == again.tolist() and kept.shape[1] > inputs["input_ids"].shape[1]
    words = inputs_of(processor, [], "Where?")
    assert model.generate(**words, max_new_tokens=2, do_sample=False).shape[1] > words["input_ids"].shape[1]


@pytest.mark.parametrize("tied", [False, True])
def test_a_full_vocabulary_gets_a_row_that_never_wins(tied: bool, tmp_path: Path) -> None:
    said = SENT["flat"] | {"language_model": LLAMA | {"config": LLAMA["config"] | {"tie_word_embeddings": tied}}}
    sent = send("flat", tmp_path, said, spare=0)
    processor, model = sent.loaded
    ids, ours = our_logits(sent, [photo(*SIZES[0])], "Where?")
    inputs = inputs_of(processor, [photo(*SIZES[0])], "Where?")
    with torch.no_grad():
        theirs = model(**inputs).logits[0]
    assert inputs["input_ids"][0].tolist() == ids and max(ids) == ours.shape[1] == theirs.shape[1] - 1
    torch.testing.assert_close(theirs[:, :-1], ours, rtol=0, atol=1e-5)
    assert torch.equal(theirs[:, -1], theirs[:, sent.processor.tokenizer.pad_id])
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied


def test_what_does_not_fit_together_is_told(tmp_path: Path) -> None:
    sent = send("flat", tmp_path)
    processor, model = sent.loaded
    inputs = inputs_of(processor, [photo(*SIZES[0])], "Where?")
    with pytest.raises(ValueError, match="16 places for 32 entries"):
        model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"].repeat(2, 1), picture_sizes=inputs["picture_sizes"].repeat(2, 1))
    with pytest.raises(ValueError, match="without picture_sizes"):
        model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"])
    with pytest.raises(ValueError, match="uint8"):
        processor.image_processor([torch.rand(8, 8, 3).numpy()])


def test_only_the_kinds_of_a_model_are_carried() -> None:
    slices, squares = (code_files(config_of(SENT[name]).resolve(400)) for name in ("separated", "points"))
    assert {"slices.py", "separated_layout.py", "resamplers.py", "resampler_modules.py"} <= set(slices)
    assert not {"slices.py", "separated_layout.py", "resamplers.py", "aspect_grids.py"} & set(squares) - {"aspect_grids.py"}
    assert "class CattyTiler" in squares["aspect_grids.py"] and "class InternVlTiler" not in squares["aspect_grids.py"]
    assert "def twin" not in "".join(slices.values()) and "import pydantic" not in "".join(slices.values())


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(SENT)), st.integers(8, 300), st.integers(8, 300))
def test_a_picture_takes_what_is_measured(name: str, width: int, height: int) -> None:
    config, parts = _known(name)
    measure = config.measure(width, height)
    seen = Geometry(parts).seen(width, height)
    assert seen.grids == measure.grids
    slots = [piece for piece in config.layout.pieces(0, measure.tiling, measure.grids, config.fusion.route) if isinstance(piece, Slots)]
    assert seen.entries[: sum(len(one.entries) for one in slots)] == [entry for one in slots for entry in one.entries]


_KNOWN: dict[str, tuple[ModelConfig, dict[str, Any]]] = {}


def _known(name: str) -> tuple[ModelConfig, dict[str, Any]]:
    from sightline.export.remote_code import exported_parts
    from sightline.model.vlm import Model

    if name not in _KNOWN:
        config = config_of(SENT[name]).resolve(400, control=lambda token: 0)
        _KNOWN[name] = config, exported_parts(config, Model(config))
    return _KNOWN[name]


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("canvas", ["model.fusion"]),
        ("hybrid", ["model.fusion"]),
        ("captioner", ["model.fusion", "model.language_model"]),
        ("prompt-in-memory", ["model.fusion", "model.language_model"]),
        ("grid", ["model.language_model.sections", "model.encoders.vision"]),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(name: str, places: list[str]) -> None:
    problems = RemoteCodeExporter().check(composition(name))
    assert [problem.place for problem in problems] == places
    assert all(problem.code == "export/remote-code" and problem.fix for problem in problems)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"layout": {"kind": "wrapped"}}, "model.layout"),
        (
            {"encoders": [{**COMPOSITIONS["flat"]["encoders"][0], "bands": ["red", "green", "blue", "nir"], "mean": [0.5] * 4, "std": [0.5] * 4}]},
            "model.encoders.vision.bands",
        ),
        ({"language_model": None, "connector": None}, "model.language_model"),
        ({"connector": {"kind": "q-former", "config": SENT["queried"]["connector"]["config"], "reads_text": True}}, "model.connector.reads_text"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], place: str) -> None:
    assert [problem.place for problem in RemoteCodeExporter().check(config_of(SENT["flat"] | changes))] == [place]


def test_a_refused_model_is_not_written(tmp_path: Path) -> None:
    from compositions import make

    from sightline.model import directory

    model, processor = make("canvas")
    (tmp_path / "model").mkdir()
    directory.save(tmp_path / "model", model, processor)
    with pytest.raises(Refused, match="blocks between the layers"):
        RemoteCodeExporter().write(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class _Example(Config):
    kind: str = "example"
    sides: tuple[int, ...] = (1, 2)
    needed: int = Field(ge=1)


def test_plain_settings_are_those_of_pydantic() -> None:
    found = _Example(needed=3, sides=[[4], 5])
    assert (found.kind, found.sides, found.needed) == ("example", ((4,), 5), 3)
    for wrong in ({}, {"needed": 1, "other": 2}):
        with pytest.raises(TypeError):
            _Example(**wrong)
    with pytest.raises(AttributeError):
        found.needed = 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ferret-v2", "llava-uhd", "mini-gemini", "minigpt-4", "nvlm-d", "points", "vila"])
def test_twins_of_published_systems_are_loaded(name: str, tmp_path: Path) -> None:
    recipe = load(name).recipe
    own = recipe.model or recipe.models.get(name)
    assert isinstance(own, ModelConfig)
    sent = send_config(name, own.twin(), tmp_path)
    processor, model = sent.loaded
    for size in SIZES:
        ids, ours = our_logits(sent, [photo(*size)], "How many ships?")
        inputs = inputs_of(processor, [photo(*size)], "How many ships?")
        assert inputs["input_ids"][0].tolist() == ids
        with torch.no_grad():
            torch.testing.assert_close(model(**inputs).logits[0], ours, rtol=0, atol=1e-5 * max(1.0, ours.abs().max().item()))


def test_parts_that_answers_do_not_need_are_listed(sent: Sent) -> None:
    left = json.loads((sent.out / "export.json").read_text())["left_out"]
    assert {name.split(".")[0] for name in left} == ({"regions"} if sent.model.regions is not None else set())


def test_settings_name_every_class(tmp_path: Path) -> None:
    sent = send("flat", tmp_path)
    config = json.loads((sent.out / "config.json").read_text())
    assert {"AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoModelForCausalLM"} <= set(config["auto_map"])
    for named in config["auto_map"].values():
        file, _, name = named.partition(".")
        assert f"class {name}(" in (sent.out / f"{file}.py").read_text()
    for file in ("processor_config.json", "preprocessor_config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json", "model.safetensors"):
        assert (sent.out / file).is_file()

"""Exports: what is written loads in transformers without this package and says the same; what a target cannot say is named, part by part."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import native_models
import pytest
import torch
from native_models import CASES
from safetensors.torch import load_file, save_file

from sightline.checkpoint_import import import_checkpoint
from sightline.errors import Refused
from sightline.export.exporters import EXPORTERS, closest, export, exporter, fits, fitting, said
from sightline.export.native_exporters import AnyTokens
from sightline.export.proof import CLOSE
from sightline.lineage import software
from sightline.model import directory
from sightline.model.assembly import ModelConfig
from sightline.model.connectors import MlpConnector
from sightline.model.layouts import FlatLayout
from sightline.model.native.native_table import NATIVE_FORMATS
from sightline.model.native.served_directory import form
from sightline.plan import resolved
from sightline.recipe import load
from sightline.run import run
from sightline.twin import write_twin

TWINS = {
    "llava-1.5": "llava",
    "llava-next": "llava-next",
    "blip-2": "blip-2",
    "internvl": "internvl",
    "llama-3.2-vision": "mllama",
    "qwen2-vl": "qwen2-vl",
    "idefics2": "idefics2",
    "pixtral": "pixtral",
    "clip": "clip",
}
"""Shipped recipe -> the target that takes it."""
READ = {"llava": "llava", "llava-siglip": "llava", "mllama": "mllama", "blip-2-t5": "blip-2", "qwen2-vl": "qwen2-vl"}
"""Published checkpoint -> the target that takes what was read of it."""
WITHOUT_TORCHVISION = {"internvl", "qwen2-vl", "pixtral"}
"""Targets whose stock processor cannot be made here."""


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of a tiny LLaVA."""
    folder = tmp_path_factory.mktemp("llava")
    native_models.published(CASES["llava"], folder / "published")
    import_checkpoint(folder / "published", folder / "model")
    return folder / "model"


def config_of(name: str) -> ModelConfig:
    """The last model of a shipped recipe."""
    recipe = load(name).recipe
    last = recipe.model_of(recipe.stages[-1])
    return resolved(recipe, last, recipe.all_models()[last])


def test_an_export_is_whole_and_proved(llava: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = export(llava, out)
    assert (found.target, found.left_out) == ("llava", [])
    assert found.proof.difference <= 1e-4
    assert len(found.proof.golden) == 3
    assert all(ours == theirs and ours for ours, theirs in found.proof.golden)
    assert found.proof.through == "stock processor"
    assert found.proof.software["transformers"] == software()["transformers"]
    record = json.loads((out / "export.json").read_text(encoding="utf-8"))
    assert record["proof"]["golden"] == [list(pair) for pair in found.proof.golden]
    assert record["made_of"]["weights"] == directory.load(llava)[2]
    towers = {name.split(".embeddings")[0] for name in load_file(out / "model.safetensors") if "vision_tower" in name and ".embeddings." in name}
    assert towers == {"vision_tower.vision_model"}, "vLLM refuses other names"
    settings = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert settings["architectures"] == ["LlavaForConditionalGeneration"]
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= names
    assert not names & {"lineage.json", "processor.json", "golden"}


@pytest.mark.slow
@pytest.mark.parametrize("case", READ)
def test_what_was_read_is_exported(case: str, tmp_path: Path) -> None:
    native_models.published(CASES[case], tmp_path / "published")
    import_checkpoint(tmp_path / "published", tmp_path / "model")
    check(tmp_path, READ[case])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", TWINS)
def test_what_was_composed_is_exported(recipe: str, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    result = run(write_twin(recipe, [], tmp_path), tmp_path / "run")
    torch.set_num_threads(threads)
    shutil.copytree(directory.model_folder(result.out), tmp_path / "model")
    check(tmp_path, TWINS[recipe])


def check(folder: Path, target: str) -> None:
    """The model in `folder` becomes this target of its own accord, and the proof holds."""
    found = export(folder / "model", folder / "out")
    assert found.target == target
    assert found.proof.golden and all(ours == theirs for ours, theirs in found.proof.golden)
    assert found.proof.through.startswith("stock image processor" if target in WITHOUT_TORCHVISION else "stock processor")


@pytest.mark.slow
def test_weights_that_are_others_are_refused(llava: Path, tmp_path: Path) -> None:
    """The proof can fail: a model whose golden answers are not its own."""
    shutil.copytree(llava, tmp_path / "model")
    file = tmp_path / "model" / "golden" / "requests.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows[0]["tokens"] = rows[0]["tokens"][::-1]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(Refused, match=r"export/(differs|golden-differs)"):
        export(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


REFUSALS: dict[str, tuple[str, str, Callable[[ModelConfig], ModelConfig], list[tuple[str, str]]]] = {
    "two encoders": (
        "llava-1.5",
        "llava",
        lambda one: one.model_copy(update={"encoders": [one.encoders[0], one.encoders[0].model_copy(update={"name": "second"})]}),
        [("model/native-parts", "model.encoders")],
    ),
    "a connector of three layers": (
        "llava-1.5",
        "llava",
        lambda one: one.model_copy(update={"connector": MlpConnector(depth=3)}),
        [("model/native-cannot-say", "model.connector.depth")],
    ),
    "a text before each picture": (
        "llava-1.5",
        "llava",
        lambda one: one.model_copy(update={"layout": FlatLayout(before="Picture: ")}),
        [("model/native-cannot-say", "model.layout.before")],
    ),
    "tiles for a target without": ("llava-next", "llava", lambda one: one, [("model/native-parts", "model.tiler"), ("model/native-parts", "model.layout")]),
    "Pixtral's tower under the name of CLIP's": ("pixtral", "llava", lambda one: one, [("export/encoder", "model.encoders.vision")]),
    "pictures in the text before BLIP-2": (
        "blip-2",
        "blip-2",
        lambda one: one.model_copy(update={"pictures": "in-place"}),
        [("model/native-pictures", "model.chat")],
    ),
    "cross-attention for a sequence": (
        "llama-3.2-vision",
        "llava",
        lambda one: one,
        [
            ("export/encoder", "model.encoders.vision"),
            ("model/native-parts", "model.encoders"),
            ("model/native-parts", "model.tiler"),
            ("model/native-parts", "model.fusion"),
        ],
    ),
}
"""What is wrong -> recipe, target, change, and every code with its place."""


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_name_the_part(name: str) -> None:
    recipe, target, change, expected = REFUSALS[name]
    problems = exporter(target).check(change(config_of(recipe)))
    assert {(problem.code, problem.place) for problem in problems} == set(expected)
    assert all(problem.found != problem.allowed and problem.allowed for problem in problems)


def test_each_recipe_has_one_published_target_which_comes_first() -> None:
    for recipe, target in TWINS.items():
        found = fitting(fits(config_of(recipe)))
        assert found[0] == target and set(found) <= {target, "remote-code"}, recipe
    assert fitting(fits(config_of("points"))) == ["remote-code"]
    crossing = fits(config_of("nvlm-x"))
    assert fitting(crossing) == []
    assert "fusion" in said(crossing[closest(crossing)])


def test_a_target_that_is_not_there_is_refused(llava: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"usage/target(?s:.*)did you mean 'llava-next'"):
        export(llava, tmp_path / "out", "llava-nxt")
    assert len({exporter(target).target for target in EXPORTERS}) == len(EXPORTERS)


def test_a_checkpoint_without_golden_requests_is_refused(llava: Path, tmp_path: Path) -> None:
    shutil.copytree(llava, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "golden")
    with pytest.raises(Refused, match="export/no-golden"):
        export(tmp_path / "model", tmp_path / "out")


def test_tokens_that_a_tokenizer_lacks_get_rows() -> None:
    config = config_of("llava-1.5")
    block = {**config.language_model.block(), "vocab_size": 1}  # pyright: ignore[reportOptionalMemberAccess]
    tight = config.model_copy(update={"language_model": config.language_model.model_copy(update={"config": block})})  # pyright: ignore[reportOptionalMemberAccess]
    tokens = AnyTokens()
    tokens.added = {"<image>": 1}
    found = form(NATIVE_FORMATS["llava"], tight, tokens, "here")
    assert found.problems == []
    assert found.written.config["text_config"]["vocab_size"] == 2


@pytest.mark.slow
def test_other_numbers_are_refused(llava: Path, tmp_path: Path) -> None:
    """One weight that is off by a little more than rounding is found."""
    own = exporter("llava")
    own.write(llava, tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    weights["language_model.lm_head.weight"] *= 1 + 20 * CLOSE
    save_file(weights, tmp_path / "out" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Refused, match="export/differs"):
        own.prove(llava, tmp_path / "out")

"""`sightline verify`: what it says of whole and of damaged folders, as text, as JSON and as an exit code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import native_models
import pytest
import torch
from safetensors.torch import load_file, save_file

from sightline.checkpoint_import import import_checkpoint
from sightline.cli.main import main
from sightline.lineage import sha256_file
from sightline.model import directory
from sightline.model.native import native_directory


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A published checkpoint, and the model directory that was made of it."""
    root = tmp_path_factory.mktemp("verify")
    native_models.published(native_models.CASES["llava"], root / "published")
    import_checkpoint(root / "published", root / "model")
    return root / "published", root / "model"


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and what --json prints."""
    code = main(["verify", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def copy(folder: Path, target: Path) -> Path:
    return shutil.copytree(folder, target)


def states(found: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["state"] for check in found["checks"]}


def test_whole_folders_pass(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    published, model = folders
    code, found = said(capsys, str(published))
    assert (code, found["format"], found["problems"]) == (0, "llava", [])
    assert states(found) == {"settings": "ok", "code": "ok", "hashes": "skipped", "weights": "ok", "tokens": "ok", "golden": "skipped"}
    code, found = said(capsys, str(model))
    assert (code, found["format"], found["problems"]) == (0, "sightline", [])
    assert states(found) == {"weights": "ok", "hashes": "skipped", "golden": "ok"}


def test_text_is_a_table_and_problems_go_to_stderr(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folders[0])]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].split() == ["check", "state"]
    assert "transformers, whole, mlp, flat, sequence, transformers" in printed.out and printed.err == ""
    folder = copy(folders[0], tmp_path / "changed")
    (folder / "modeling_own.py").write_text("raise SystemExit('it ran')")
    assert main(["verify", str(folder)]) == 0
    printed = capsys.readouterr()
    assert "warnings" in printed.out and "modeling_own.py name or hold code" in printed.err


def _drop_and_bend(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("multi_modal_projector.linear_2.bias")
    tensors["vision_tower.post_layernorm.bias"] = torch.zeros(3)
    save_file(tensors | {"vision_tower.more": torch.zeros(1)}, folder / "model.safetensors")


def _change(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _exchange_weights(folder: Path) -> None:
    (folder / "sightline.hashes.json").write_text(json.dumps({"model.safetensors": "0" * 64, "absent.json": "1" * 64}))


def _wrong_index(folder: Path) -> None:
    weight_map = dict.fromkeys(load_file(folder / "model.safetensors"), "model.safetensors") | {"gone": "model.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    save_file({"x": torch.zeros(1)}, folder / "stray.safetensors")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            _drop_and_bend,
            {
                "model/missing-weights": "1 tensors are not in the checkpoint: multi_modal_projector.linear_2.bias",
                "model/unknown-weights": "1 tensors have no place: vision_tower.more",
                "model/shape-mismatch": "1 tensors have another shape: vision_tower.post_layernorm.bias (3,), by the config (32,)",
            },
        ),
        (lambda folder: _change(folder, "config.json", image_token_index=5), {"model/token-id": "5"}),
        (
            lambda folder: _change(folder, "config.json", text_config=json.loads((folder / "config.json").read_text())["text_config"] | {"vocab_size": 40}),
            {"model/vocabulary": "tokens", "model/shape-mismatch": "embed_tokens.weight (416, 48), by the config (40, 48)"},
        ),
        (lambda folder: _change(folder, "config.json", projector_hidden_act="relu"), {"model/native-config": "projector_hidden_act: relu"}),
        (_exchange_weights, {"model/hash": ""}),
        (_wrong_index, {"model/index": ""}),
    ],
)
def test_all_damage_is_told(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], told: dict[str, str]
) -> None:
    folder = copy(folders[0], tmp_path / "damaged")
    damage(folder)
    code, found = said(capsys, str(folder))
    assert code == 1 and found["ok"] is False
    assert {problem["code"] for problem in found["problems"]} == set(told)
    for problem in found["problems"]:
        assert told[problem["code"]] in problem["found"], problem


def test_code_and_pickles_are_told_and_left_alone(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy(folders[0], tmp_path / "odd")
    _change(folder, "config.json", auto_map={"AutoModel": "modeling_own.Own"})
    (folder / "modeling_own.py").write_text("raise SystemExit('it ran')")
    (folder / "pytorch_model.bin").write_bytes(b"no pickle at all")
    code, found = said(capsys, str(folder))
    assert code == 0
    assert [(problem["code"], problem["severity"]) for problem in found["problems"]] == [("model/code", "warn"), ("model/pickle", "warn")]
    assert "config.json, modeling_own.py name or hold code" in found["problems"][0]["found"]


def test_another_end_than_the_chat_format_has_is_a_warning(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy(folders[0], tmp_path / "endless")
    _change(folder, "generation_config.json", eos_token_id=[7, 8])
    code, found = said(capsys, str(folder))
    assert (code, [(problem["code"], problem["found"]) for problem in found["problems"]]) == (0, [("model/end-token", "7, 8")])


def test_recorded_hashes_are_checked_again(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy(folders[0], tmp_path / "recorded")
    assert main(["verify", str(folder), "--record-hashes"]) == 0
    capsys.readouterr()
    code, found = said(capsys, str(folder))
    assert (code, states(found)["hashes"]) == (0, "ok")
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    code, found = said(capsys, str(folder))
    assert (code, [problem["code"] for problem in found["problems"]]) == (1, ["model/hash"])
    assert found["problems"][0]["found"] == sha256_file(weights)


def test_names_that_are_hashes_are_checked(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy(folders[0], tmp_path / "snapshots")
    weights = folder / "model.safetensors"
    blob = tmp_path / "blobs" / sha256_file(weights)
    blob.parent.mkdir()
    weights.rename(blob)
    weights.symlink_to(blob)
    code, found = said(capsys, str(folder))
    assert (code, [check["said"] for check in found["checks"] if check["name"] == "hashes"]) == (0, ["1 files"])


def test_exchanged_weights_and_other_answers_of_a_model_directory_are_told(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy(folders[1], tmp_path / "exchanged")
    part = next(folder.glob("connector-*.safetensors"))
    save_file({name: tensor + 1 for name, tensor in load_file(part).items()}, part)
    code, found = said(capsys, str(folder))
    assert (code, [problem["code"] for problem in found["problems"]]) == (1, ["model/weights-id"])
    assert states(found)["golden"] == "skipped"
    folder = copy(folders[1], tmp_path / "answers")
    requests = folder / "golden" / "requests.jsonl"
    first, *others = requests.read_text().splitlines(keepends=True)
    row = json.loads(first)
    requests.write_text(json.dumps(row | {"logps": [value - 1 for value in row["logps"]]}) + "\n" + "".join(others))
    code, found = said(capsys, str(folder))
    assert (code, [problem["code"] for problem in found["problems"]]) == (1, ["evaluate/golden-differs"])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [([], 2, "the following arguments are required: DIR"), (["."], 1, "model/not-a-model")],
)
def test_what_is_no_model_is_refused(
    words: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["verify", *words]) == code
    assert message in capsys.readouterr().err


def test_the_loaded_model_of_the_directory_is_the_published_one(folders: tuple[Path, Path]) -> None:
    ours, _, weights = directory.load(folders[1])
    theirs, _, again = native_directory.load_published(folders[0])
    assert weights == again
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())

"""What can be wrong with a published folder, found without reading its numbers and without running anything of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from sightline.errors import Problem, Refused
from sightline.lineage import sha256_file
from sightline.model import hub_layout
from sightline.model.assembly import ModelConfig
from sightline.model.native.key_rules import LISTED, moves_in, moves_out, to_ours
from sightline.model.native.native_format import NativeFormat
from sightline.model.native.native_weights import blank, tokenizers_of, wanted, with_ids
from sightline.model.native.published_folder import CONFIG, GENERATION, INDEX, PICKLES, Published, Stored, stored_tensors
from sightline.model.tokens import TextTokenizer

HASHES = "sightline.hashes.json"
"""File beside a checkpoint: file name -> sha256 of its bytes."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TOKEN_IDS = ("image_token_index", "image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """What the weight files hold."""

    tensors: int
    numbers: int
    dtypes: tuple[str, ...]
    problems: tuple[Problem, ...]


def weigh(folder: Path, config: ModelConfig, found: NativeFormat) -> Weighed:
    """Names and shapes of all tensors against what the config means. Raises Refused for files that are no weights."""
    stored = stored_tensors(folder)
    problems = [*_index_problems(folder, stored), *_tensor_problems(folder, config, found, stored)]
    return Weighed(
        tensors=len(stored),
        numbers=sum(torch.Size(one.shape).numel() for one in stored.values()),
        dtypes=tuple(sorted({one.dtype for one in stored.values()})),
        problems=tuple(problems),
    )


def _tensor_problems(folder: Path, config: ModelConfig, found: NativeFormat, stored: dict[str, Stored]) -> list[Problem]:
    place, rules = str(folder), found.rules(config)
    needs = wanted(blank(config))
    try:
        moves = moves_in(rules, [name for name in stored if not name.endswith(found.kept) and name not in found.copies], place)
        shapes = {name: torch.empty(one.shape, device="meta") for name, one in stored.items()}
        given = to_ours(moves, shapes, place)
    except Refused as refused:
        return refused.problems
    published = {ours: ", ".join(move.theirs) for move in moves for ours in move.ours}
    missing, wrong = [], []
    for need in needs:
        held = [name for name in need.names if name in given]
        if not held and not need.name.startswith(found.fresh(config) or ("?",)):
            missing.append(need.names[0])
        wrong += [
            f"{published[name]} {tuple(given[name].shape)}, by the config {tuple(need.tensor.shape)}" for name in held if given[name].shape != need.tensor.shape
        ]
    known = {name for need in needs for name in need.names}
    unknown = [published[name] for name in given if name not in known]
    absent = [name for move in moves_out(rules, missing, place) for name in move.theirs]
    told = (
        ("model/missing-weights", absent, "tensors are not in the checkpoint"),
        ("model/unknown-weights", unknown, "tensors have no place"),
        ("model/shape-mismatch", wrong, "tensors have another shape"),
    )
    return [_listed(code, place, names, said) for code, names, said in told if names]


def _listed(code: str, place: str, names: list[str], said: str) -> Problem:
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return Problem(
        code=code,
        place=place,
        found=f"{len(names)} {said}: {', '.join(names[:LISTED])}{rest}",
        allowed="exactly the tensors of the model that config.json describes",
        fix="fetch the checkpoint again, weights and config.json together",
    )


def _index_problems(folder: Path, stored: dict[str, Stored]) -> Iterator[Problem]:
    """Where the index says another file for a tensor than the one that holds it, and weight files that it does not name."""
    path = folder / INDEX
    if not path.is_file():
        return
    weight_map = hub_layout.read_json(path)["weight_map"]
    wrong = [name for name in {*weight_map, *stored} if weight_map.get(name) != getattr(stored.get(name), "file", None)]
    stray = sorted(file.name for file in folder.glob("*.safetensors") if file.name not in weight_map.values())
    for names, said in ((sorted(wrong), "tensors are not in the file that the index names"), (stray, "files of weights are not in the index")):
        if names:
            yield _listed("model/index", str(path), names, said)


def code_problems(published: Published) -> list[Problem]:
    """Code and pickles in the folder, as warnings: nothing here runs or opens them."""
    folder, found = published.folder, []
    files = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
    mapped = [name for name in files if (folder / name).is_file() and "auto_map" in hub_layout.read_json(folder / name)]
    code = sorted(path.name for path in folder.rglob("*.py"))
    pickles = sorted(path.name for path in folder.rglob("*") if path.suffix in PICKLES)
    told = (
        (
            "model/code",
            [*mapped, *code],
            "name or hold code: auto_map, .py",
            "nothing: it is never run here; other software may run it when it is told to trust it",
        ),
        (
            "model/pickle",
            pickles,
            "are pickles",
            "safetensors: a pickle can run code where it is opened without care; here it is opened as tensors alone, or not at all",
        ),
    )
    for code_name, names, said, allowed in told:
        if names:
            fix = "remove these files if nothing needs them"
            found.append(Problem(code=code_name, place=str(folder), found=f"{', '.join(names)} {said}", allowed=allowed, fix=fix, severity="warn"))
    return found


def hash_problems(folder: Path) -> tuple[int, list[Problem]]:
    """How many files have a known hash, and those whose bytes have another. Known: sightline.hashes.json beside them, and names in the hub's cache that are hashes."""
    known = hub_layout.read_json(folder / HASHES) if (folder / HASHES).is_file() else {}
    for path in folder.iterdir():
        if path.is_symlink() and _DIGEST.fullmatch(path.resolve().name):
            known.setdefault(path.name, path.resolve().name)
    problems = []
    for name, digest in sorted(known.items()):
        inside = Path(name).name == name and (folder / name).is_file()
        found = sha256_file(folder / name) if inside else "no such file"
        if found != digest:
            problems.append(
                Problem(
                    code="model/hash",
                    place=str(folder / name),
                    found=found,
                    allowed=str(digest),
                    fix="fetch the file again: these are not the bytes that were published",
                )
            )
    return len(known), problems


def write_hashes(folder: Path) -> dict[str, str]:
    """The hashes of all files of a folder, as sightline.hashes.json takes them."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != HASHES}


def _end_problems(published: Published, tokenizer: TextTokenizer) -> list[Problem]:
    """A warning where the chat format ends answers with a token that generation_config.json does not stop at."""
    said = published.generation.get("eos_token_id")
    ends = said if isinstance(said, list) else [said]
    if said is None or tokenizer.end_id in ends:
        return []
    return [
        Problem(
            code="model/end-token",
            place=f"{published.folder / GENERATION}:eos_token_id",
            found=", ".join(map(str, ends)),
            allowed=f"{tokenizer.end_id}, {tokenizer.end}: what the chat format ends an answer with",
            fix="name another chat format in a recipe if answers do not end",
            severity="warn",
        )
    ]


def token_problems(published: Published, config: ModelConfig, found: NativeFormat) -> list[Problem]:
    """A tokenizer with more tokens than the embeddings have rows, and ids of picture tokens that are not those of the tokenizer. Raises Refused for a broken tokenizer."""
    tokenizer, side = tokenizers_of(published, found, config)
    config = with_ids(config, tokenizer, side)
    language: Any = config.language_model or config.text_encoder
    rows = (language.block()["vocab_size"] if hasattr(language, "block") else tokenizer.size) + getattr(language, "extra_rows", 0)
    problems = []
    if tokenizer.size > rows:
        problems.append(
            Problem(
                code="model/vocabulary",
                place=str(published.folder / "tokenizer.json"),
                found=f"{tokenizer.size} tokens",
                allowed=f"at most {rows}: the rows of the embeddings",
                fix="fetch tokenizer and weights of one release",
            )
        )
    problems += _end_problems(published, tokenizer) if config.language_model is not None else []
    ids = Tokenizer.from_str(tokenizer.document)
    named: dict[int, str] = {}

    def numbered(token: str) -> int:
        number = ids.token_to_id(token)
        number = -1 - len(named) if number is None else number
        named[number] = token
        return number

    written = found.write(config, numbered).config
    for key in _TOKEN_IDS:
        said, own = published.config.get(key), written.get(key)
        if said is not None and own is not None and said != own:
            problems.append(
                Problem(
                    code="model/token-id",
                    place=f"{published.folder / CONFIG}:{key}",
                    found=str(said),
                    allowed=f"{own}: {named[own]} of the tokenizer" if own >= 0 else f"an id of {named[own]}, which the tokenizer does not have",
                    fix="fetch config.json and the tokenizer of one release",
                )
            )
    return problems

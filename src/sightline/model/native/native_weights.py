"""A published checkpoint as parts of a Sightline model: its Config, its tensors under our names, and what is needed to write it back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sightline.errors import Problem, Refused
from sightline.model.assembly import ModelConfig
from sightline.model.native.key_rules import LISTED, Move, moves_in, to_ours, to_theirs
from sightline.model.native.native_format import NativeFormat, spoken
from sightline.model.native.native_table import format_of
from sightline.model.native.published_folder import CONFIG, Published, dtype_names, read_published, read_weights, special_tokens, stored_tensors
from sightline.model.tokens import PAD, TextTokenizer
from sightline.model.vlm import Model


@dataclass(frozen=True, kw_only=True)
class Native:
    """A checkpoint that was read."""

    config: ModelConfig
    tensors: dict[str, Tensor]
    """Full names of ours, each tensor once, in the dtype in which it is stored."""
    tokenizer: Path
    """Folder with tokenizer.json."""
    format: NativeFormat
    published: Published
    kept: dict[str, Tensor]
    """Published buffers that nothing here computes with."""
    files: dict[str, str]
    """Published name -> file that held it."""
    dtypes: dict[str, str]
    """Published name -> dtype."""
    problems: tuple[Problem, ...] = ()
    """What was read in another way than it stands there; none of it refuses."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A tensor that a model needs, by its full name. Tied tensors are one: `names` are all its names, the published one first in the order of modules."""

    name: str
    names: tuple[str, ...]
    tensor: Tensor


def load(folder: Path) -> Native:
    """Everything of a published folder. Raises Refused for a format that is not in the table, settings that no part does, and tensors that do not fit, all listed."""
    published = read_published(folder)
    found = format_of(published.said, str(folder / CONFIG))
    config = native_config(published, found)
    stored = read_weights(folder)
    kept = {name: tensor for name, tensor in stored.items() if name.endswith(found.kept)}
    place = str(folder)
    _refuse_other_copies(found.copies, stored, place)
    moves = moves_in(found.rules(config), stored.keys() - kept.keys() - found.copies.keys(), place)
    needs = wanted(blank(config))
    given = to_ours(moves, stored, place)
    started = fresh(found, config, needs, given)
    tensors = untied(needs, given | started, place)
    return Native(
        config=config,
        tensors=tensors,
        tokenizer=folder,
        format=found,
        published=published,
        kept=kept,
        files={name: one.file for name, one in stored_tensors(folder).items()},
        dtypes=dtype_names(stored),
        problems=(*spoken(published, found.chat(published)).problems, *_started(started, place)),
    )


def native_config(published: Published, format_: NativeFormat) -> ModelConfig:
    """The parts that settings mean, with the chat format of their template."""
    return format_.read(published).model_copy(update={"chat": spoken(published, format_.chat(published)).chat})


def _refuse_other_copies(copies: Mapping[str, str], stored: Mapping[str, Tensor], place: str) -> None:
    wrong = [f"{name} and {source}" for name, source in copies.items() if name in stored and source in stored and not torch.equal(stored[name], stored[source])]
    if wrong:
        raise Refused(_tied(wrong, place))


def _tied(pairs: list[str], place: str) -> Problem:
    return Problem(
        code="model/tied-weights",
        place=place,
        found=f"{len(pairs)} pairs are one tensor by the config and differ in the checkpoint: {', '.join(pairs[:LISTED])}",
        allowed="the same numbers in both",
        fix="use the config.json and the weights that belong together",
    )


def with_ids(config: ModelConfig, tokenizer: TextTokenizer, side: TextTokenizer | None) -> ModelConfig:
    """With the ids of the control tokens that parts begin texts with, which are known with the tokenizers."""
    return config.resolve(control=tokenizer.control, side_control=(side or tokenizer).control)


def blank(config: ModelConfig) -> Model:
    """The model without memory: names and shapes alone."""
    with torch.device("meta"):
        return Model(config)


def wanted(model: Model) -> list[Wanted]:
    """Every tensor that a model needs, in sorted order of names; tied ones under the name that a model directory gives them: the first in sorted order."""
    found = []
    for path, module in model.parts().items():
        groups: dict[int, list[str]] = {}
        own: Mapping[str, Tensor] = module.state_dict(keep_vars=True)
        for name, tensor in own.items():
            groups.setdefault(id(tensor), []).append(name)
        found += [Wanted(name=f"{path}.{min(names)}", names=tuple(f"{path}.{name}" for name in names), tensor=own[min(names)]) for names in groups.values()]
    return sorted(found, key=lambda one: one.name)


def fresh(found: NativeFormat, config: ModelConfig, needs: Iterable[Wanted], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that the published form has no place for, with the numbers that a new model has, by seed 0."""
    beginnings = found.fresh(config)
    absent = [need.name for need in needs if beginnings and need.name.startswith(beginnings) and not any(name in given for name in need.names)]
    if not absent:
        return {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Model(config)
    own = {f"{path}.{name}": tensor for path, module in model.parts().items() for name, tensor in module.state_dict().items()}
    return {name: own[name].clone() for name in absent}


def _started(names: Iterable[str], place: str) -> list[Problem]:
    listed = sorted(names)
    problem = Problem(
        code="model/fresh-weights",
        place=place,
        found=f"{len(listed)} tensors of ours have no place in this format: {', '.join(listed[:LISTED])}",
        allowed="weights of training that is not published",
        fix="they start fresh: train them before they are used",
        severity="warn",
    )
    return [problem] if listed else []


def untied(needs: Iterable[Wanted], tensors: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
    """The tensors that a model needs, each once. Raises Refused for all that are missing, unknown, of another shape, or tied by the config and yet different."""
    found: dict[str, Tensor] = {}
    rest = set(tensors)
    missing, different, shapes = [], [], []
    for need in needs:
        given = [name for name in need.names if name in tensors]
        rest -= set(given)
        if not given:
            missing.append(need.name)
        elif any(not torch.equal(tensors[given[0]], tensors[name]) for name in given[1:]):
            different.append(" and ".join(given))
        elif tensors[given[0]].shape != need.tensor.shape:
            shapes.append(f"{given[0]} {tuple(tensors[given[0]].shape)}, by the config {tuple(need.tensor.shape)}")
        else:
            found[need.name] = tensors[given[0]]
    told = (
        ("model/missing-weights", missing, "tensors are not in the checkpoint"),
        ("model/unknown-weights", sorted(rest), "tensors have no place"),
        ("model/shape-mismatch", shapes, "tensors have another shape"),
    )
    fix = "use the config.json and the weights that belong together"
    problems = [
        Problem(
            code=code,
            place=place,
            found=f"{len(listed)} {said}: {', '.join(listed[:LISTED])}{f' and {len(listed) - LISTED} more' if len(listed) > LISTED else ''}",
            allowed="exactly the tensors of the model that config.json describes",
            fix=fix,
        )
        for code, listed, said in told
        if listed
    ]
    problems += [_tied(different, place)] if different else []
    if problems:
        raise Refused(problems)
    return found


def filled(config: ModelConfig, tensors: Mapping[str, Tensor]) -> Model:
    """A model that holds these tensors themselves, in their dtypes. It is there to be saved: buffers that are not saved have no numbers."""
    model = blank(config)
    given = everything(wanted(model), tensors)
    for path, module in model.parts().items():
        module.load_state_dict({name: given[f"{path}.{name}"] for name in module.state_dict()}, assign=True)
    return model.eval()


def everything(needs: Iterable[Wanted], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under all their names, tied ones under each of theirs."""
    return {name: tensors[need.name] for need in needs for name in need.names}


def published_tensors(moves: Iterable[Move], tensors: Mapping[str, Tensor], place: str, dtypes: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors under their published names, in the dtypes that they had there."""
    found = to_theirs(moves, tensors, place)
    return {name: tensor.to(getattr(torch, dtypes[name])) if name in dtypes else tensor for name, tensor in found.items()}


def tokenizers_of(published: Published, found: NativeFormat, config: ModelConfig) -> tuple[TextTokenizer, TextTokenizer | None]:
    """The checkpoint's tokenizer, and that of side texts where it has one of its own."""
    chat = config.chat_format()
    added = found.tokens(config)
    if not found.side:
        return _tokenizer(published.folder, chat.end, config.controls(), added, config.reads_padding), None
    folder = published.folder / found.side
    said = special_tokens(folder)
    end = said.get("eos_token") or said.get("sep_token") or "[SEP]"
    return _tokenizer(published.folder, chat.end, config.controls(), {}), _tokenizer(folder, end, config.side_controls(), added)


def _tokenizer(folder: Path, end: str, controls: tuple[str, ...], added: Mapping[str, int], reads_padding: bool = False) -> TextTokenizer:
    """Where it pads with the token that ends an answer, or names none, another of its special tokens pads: padding is masked, unless the model reads it."""
    document = folder / "tokenizer.json"
    if not document.is_file():
        return TextTokenizer.load(folder, end, controls)  # raises Refused
    said = special_tokens(folder)
    names = ("pad_token",) if reads_padding else ("pad_token", "unk_token", "bos_token")
    pads = [said[name] for name in names if name in said]
    pad = next((token for token in pads if token != end), pads[0] if pads else PAD)
    return TextTokenizer(extended(document.read_text(encoding="utf-8"), added), end, pad, str(document), controls, reads_padding)


def extended(document: str, added: Mapping[str, int]) -> str:
    """A tokenizer.json with these tokens beside its own; as it is where it has them all."""
    said = json.loads(document)
    known = {token["content"] for token in said["added_tokens"]}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    more = [{"id": number, "content": token, **flags} for token, number in added.items() if token not in known]
    return json.dumps(said | {"added_tokens": said["added_tokens"] + more}, ensure_ascii=False) if more else document

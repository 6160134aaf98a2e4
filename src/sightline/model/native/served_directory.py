"""A model directory in the form that other software serves: the names of tensors that engines ask for, a tokenizer with every token of the settings, a template that writes our prompt.

`native_directory.export` gives a checkpoint back as it was read. This one is for those who have never seen the checkpoint: what answers do not pass through is left out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sightline.errors import Problem, Refused
from sightline.lineage import artifact, write_json, write_text
from sightline.model import directory, hub_layout
from sightline.model.assembly import ModelConfig
from sightline.model.chat import ChatFormat, template
from sightline.model.native.key_rules import moves_in, moves_out
from sightline.model.native.native_directory import Record, Tokens, read_record, unsaid
from sightline.model.native.native_format import NativeFormat, Written, spoken
from sightline.model.native.native_weights import Wanted, blank, everything, extended, native_config, published_tensors, tokenizers_of, wanted
from sightline.model.native.published_folder import CONFIG, GENERATION, PREPROCESSOR, PROCESSOR, TEMPLATE, dtype_names, small_files, write_weights
from sightline.model.processor import Processor

_TOKENIZER, _TOKENS = "tokenizer.json", "tokenizer_config.json"


@dataclass(frozen=True, kw_only=True)
class Form:
    """A model as a format serves it."""

    config: ModelConfig
    """Its parts, with a row of the embeddings for every token."""
    written: Written
    problems: list[Problem]
    """Everything about the model that the format cannot say; then nothing else here counts."""


class Ids(Protocol):
    """Ids of tokens by name; those that a tokenizer lacks are listed with the ids that they get."""

    added: dict[str, int]

    def id(self, token: str) -> int:
        """Its id."""
        ...


def form(chosen: NativeFormat, config: ModelConfig, tokens: Ids, place: str) -> Form:
    """The served form of a resolved Config. Raises nothing: what does not fit is listed."""
    problems, served = _misplaced(chosen, config.chat_format()), chosen.served(config)
    try:
        chosen.write(served, tokens.id)
        for token in chosen.named.values():
            tokens.id(token)
        served = _with_rows(served, tokens)
        written = chosen.write(served, tokens.id)
        return Form(config=served, written=written, problems=[*unsaid(chosen, served, written, Path(place)), *problems])
    except Refused as refused:
        return Form(config=served, written=Written(config={}, preprocessor={}, processor={}), problems=[*refused.problems, *problems])


def _misplaced(chosen: NativeFormat, chat: ChatFormat) -> list[Problem]:
    """A chat format whose pictures stand where the published processor does not put them."""
    place = "first" if chat.pictures == "before-all" and not chat.begin else chat.pictures
    if place in chosen.pictures:
        return []
    return [
        Problem(
            code="model/native-pictures",
            place="model.chat",
            found=f"{chat.name}, whose pictures stand {place}",
            allowed=", ".join(chosen.pictures),
            fix=f"choose another native format than {chosen.name}",
        )
    ]


def _with_rows(config: ModelConfig, tokens: Ids) -> ModelConfig:
    """With rows of the embeddings for tokens that the tokenizer did not have: published classes look up every id."""
    language: Any = config.language_model
    if language is None or not tokens.added:
        return config
    block = language.block()
    rows = max(tokens.added.values()) + 1 - getattr(language, "extra_rows", 0)
    if rows <= block["vocab_size"]:
        return config
    return config.model_copy(update={"language_model": language.model_copy(update={"config": {**block, "vocab_size": rows}})})


def write_served(model_dir: Path, out: Path, chosen: NativeFormat) -> list[str]:
    """Write the served form of a model directory; returns the names of tensors that are left out.

    Raises Refused (model/native-parts, model/native-cannot-say, model/native-pictures) with everything about the model that the format cannot say.
    """
    _, processor, _ = directory.load(model_dir)
    remembered = read_record(model_dir)
    record = remembered if remembered and remembered.format is chosen else None
    tokens = Tokens(processor.tokenizer)
    found = form(chosen, processor.config, tokens, str(model_dir))
    if found.problems:
        raise Refused(found.problems)
    stored, place = directory.read_tensors(model_dir), str(model_dir)
    beginnings = chosen.fresh(found.config)
    needs = [need for need in wanted(blank(found.config)) if not (beginnings and need.name.startswith(beginnings))]
    dtypes = _dtypes(record, chosen, found.config, place)
    tensors = {need.name: _rows_added(stored[need.name], need).to(dtypes.get(need.name, stored[need.name].dtype)) for need in needs}
    moves = moves_out(chosen.rules(found.config), {need.names[0] for need in needs}, place)
    with artifact(out) as temporary:
        published = published_tensors(moves, everything(needs, tensors), place, {})
        write_weights(temporary, published)
        _write_tokenizer(temporary, model_dir, processor, record, chosen, tokens)
        _write_settings(temporary, model_dir, found, record, processor, dtype_names(published))
    return sorted(stored.keys() - {need.name for need in needs})


def _rows_added(tensor: Tensor, need: Wanted) -> Tensor:
    """With rows for new tokens, each the mean of the others: their logit is the mean logit, which is never the largest."""
    missing = need.tensor.shape[0] - tensor.shape[0] if need.tensor.dim() else 0
    if missing <= 0 or tensor.shape[1:] != need.tensor.shape[1:]:
        return tensor
    row = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
    return torch.cat([tensor, row.expand(missing, *row.shape[1:])])


def _dtypes(record: Record | None, chosen: NativeFormat, config: ModelConfig, place: str) -> dict[str, torch.dtype]:
    """Our names -> dtypes of the checkpoint that they were read from: a stage may have written them in another."""
    if record is None:
        return {}
    moves = moves_in(chosen.rules(config), record.files.keys() - record.kept.keys() - chosen.copies.keys(), place)
    return {ours: getattr(torch, record.dtypes[move.theirs[0]]) for move in moves for ours in move.ours}


# settings


def _write_settings(folder: Path, model_dir: Path, found: Form, record: Record | None, processor: Processor, dtypes: Mapping[str, str]) -> None:
    """Settings of a checkpoint as they were, while they still mean the same; else what the model says."""
    end = _ends(processor)
    config = dict(found.written.config)
    if "text_config" in config:  # a text tower reads its vector where a text ends
        config["text_config"] = config["text_config"] | {"eos_token_id": end[0], "pad_token_id": processor.tokenizer.pad_id}
    [*held] = dict.fromkeys(dtypes.values())
    written = {
        CONFIG: config | ({"dtype": held[0]} if len(held) == 1 else {}),
        PREPROCESSOR: found.written.preprocessor,
        PROCESSOR: found.written.processor,
        GENERATION: hub_layout.read_json(model_dir / GENERATION) | {"eos_token_id": end if len(end) > 1 else end[0]},
    }
    same = record is not None and _means_the_same(record, found, processor)
    if record is not None and same:
        _copy(record.published.folder, folder, tuple(written))
    for name, said in written.items():
        if not (same and (folder / name).is_file()):
            write_json(folder / name, said)


def _means_the_same(record: Record, found: Form, processor: Processor) -> bool:
    before = record.format.write(record.format.read(record.published), Tokens(processor.tokenizer).id)
    return before == found.written


def _ends(processor: Processor) -> list[int]:
    """Ids that end an answer: the end token, and the text that ends one where it is a token."""
    found, stop = [processor.tokenizer.end_id], processor.chat.stop
    if stop:
        last = processor.tokenizer.encode(f"x{stop}")[-1]
        found += [last] if processor.tokenizer.piece(last) == stop else []
    return found


def _copy(source: Path, target: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


# tokenizer


def _write_tokenizer(folder: Path, model_dir: Path, processor: Processor, record: Record | None, chosen: NativeFormat, tokens: Tokens) -> None:
    """The checkpoint's own files, while they are still true; else those of the model, as other software reads them."""
    chat, text = processor.chat, template(processor.chat, chosen.placeholder(processor.config))
    kept = record is not None and _is_true(record, processor)
    if record is not None and kept:
        source = record.published.folder
        _copy(source, folder, tuple(path.name for path in small_files(source)))
        document, settings = processor.tokenizer.document, record.published.tokens
        said = spoken(record.published, chosen.chat(record.published))
        if record.published.template is None or said.problems or native_config(record.published, chosen).chat_format() != chat:
            write_text(folder / TEMPLATE, text)
    else:
        processor.tokenizer.save(folder, text)
        own: Any = processor.config if processor.config.language_model is not None else processor.config.side_part
        sides = {"model_max_length": own.max_tokens, "padding_side": "left" if own is processor.config else "right"}
        document, settings = _bare(processor), hub_layout.read_json(folder / _TOKENS) | sides
    begin = next((token for token in chat.controls if chat.begin.startswith(token)), None)
    named = {"extra_special_tokens": dict(chosen.named)} if chosen.named.keys() - settings.keys() else {}
    first = {"bos_token": begin} if begin and settings.get("bos_token") is None else {}
    write_json(folder / _TOKENS, settings | first | named)
    write_text(folder / _TOKENIZER, extended(document, tokens.added))


def _is_true(record: Record, processor: Processor) -> bool:
    """Whether the checkpoint's tokenizer is still the model's."""
    before, _ = tokenizers_of(record.published, record.format, native_config(record.published, record.format))
    return before.document == processor.tokenizer.document


def _bare(processor: Processor) -> str:
    """The tokenizer as the model uses it: nothing is added around a prompt, since the template writes all of it, and around a side text first token and end; tokens of a
    codec are no special ones, so that answers show them.
    """
    config, tokenizer = processor.config, processor.tokenizer
    said = json.loads(tokenizer.document)
    shown = set(config.codec.control if config.codec is not None else ())
    for token in said["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in shown
    said["post_processor"] = None
    if config.language_model is None:
        begin = getattr(config.side_part, "begin", None)
        around = {token: tokenizer.control(token) for token in (begin, tokenizer.end) if token}
        pieces = [{"SpecialToken": {"id": token, "type_id": 0}} for token in around]
        single = [*pieces[:-1], {"Sequence": {"id": "A", "type_id": 0}}, pieces[-1]]
        listed = {token: {"id": token, "ids": [number], "tokens": [token]} for token, number in around.items()}
        said["post_processor"] = {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": listed,
        }
    return json.dumps(said, ensure_ascii=False)

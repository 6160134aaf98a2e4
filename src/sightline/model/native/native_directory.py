"""From a published checkpoint to a model directory, and back: the same tensors, bit for bit.

published folder --import_--> MODEL (with MODEL/native: what the published form says beside) --export--> published folder
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from sightline.errors import Problem, Refused
from sightline.lineage import Lineage, artifact, sha256_json, write_json, write_text
from sightline.model import directory, hub_layout
from sightline.model.assembly import ModelConfig
from sightline.model.chat import template
from sightline.model.native.key_rules import Move, moves_in, moves_out
from sightline.model.native.native_format import NativeFormat, Written
from sightline.model.native.native_table import NATIVE_FORMATS, format_of
from sightline.model.native.native_weights import (
    Native,
    blank,
    everything,
    extended,
    filled,
    load,
    native_config,
    published_tensors,
    tokenizers_of,
    wanted,
    with_ids,
)
from sightline.model.native.published_folder import (
    CONFIG,
    PREPROCESSOR,
    PROCESSOR,
    TEMPLATE,
    Published,
    canonical,
    dtype_names,
    read_published,
    small_files,
    write_weights,
)
from sightline.model.processor import Processor
from sightline.model.tokens import TextTokenizer
from sightline.model.vlm import Model

RECORD = "native"
"""Folder of a model directory that holds the small files of the published form as they were, the names of its tensors, and buffers that nothing here computes with."""
_NAMES, _KEPT = "record.json", "kept.safetensors"
_SETTINGS = (CONFIG, PREPROCESSOR, PROCESSOR)
_ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_OURS = ("processor.json", "lineage.json")
"""Files of a model directory that published folders do not have."""
Golden = Callable[[Path, Model, Processor, str], None]
"""Writes golden requests into a model directory: folder, model, processor, weights id."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What MODEL/native remembers of the published form."""

    format: NativeFormat
    published: Published
    files: dict[str, str]
    """Published name -> file."""
    dtypes: dict[str, str]
    kept: dict[str, Tensor]


# published -> ours


def load_published(folder: Path) -> tuple[Model, Processor, str]:
    """Model (eval mode, float32), processor and weights id of a published folder, as `directory.load` gives them of a model directory."""
    native = load(folder)
    processor = _processor(native.published, native.format, native.config)
    model = Model(processor.config)
    directory.fill(model, native.tensors, str(folder))
    if model.language_model is not None:
        model.language_model.prove_logits()
    return model.eval(), processor, directory.weights_id(directory.part_ids(model))


def published_processor(folder: Path) -> Processor:
    """The processor of a published folder, without its weights. Raises Refused as `load_published` does, but for tensors."""
    published = read_published(folder)
    found = format_of(published.said, str(folder / CONFIG))
    return _processor(published, found, native_config(published, found))


def _processor(published: Published, found: NativeFormat, config: ModelConfig) -> Processor:
    tokenizers = tokenizers_of(published, found, config)
    return Processor(with_ids(config, *tokenizers), *tokenizers)


def import_(folder: Path, out: Path, golden: Golden | None = None) -> Native:
    """A model directory of a published checkpoint, in the dtypes that it has. `golden`: writes golden requests with the loaded model. Raises Refused as `load` does."""
    native = load(folder)
    processor = _processor(native.published, native.format, native.config)
    with artifact(out) as temporary:
        model = filled(processor.config, native.tensors)
        weights = directory.save(temporary, model, processor)
        _write_record(temporary / RECORD, native)
        fingerprint = sha256_json([native.format.name, native.published.said])
        Lineage(id=sha256_json([fingerprint, weights]), kind="model", config=fingerprint).write(temporary)
        if golden is not None:
            loaded = Model(processor.config)
            directory.fill(loaded, native.tensors, str(folder))
            golden(temporary, loaded.eval(), processor, weights)
    return native


def _write_record(folder: Path, native: Native) -> None:
    from safetensors.torch import save_file

    source, side = native.published.folder, native.format.side
    _copy_small(source, folder)
    if side:
        _copy_small(source / side, folder / side)
    if native.kept:
        save_file({name: tensor.contiguous() for name, tensor in native.kept.items()}, folder / _KEPT, metadata={"format": "pt"})
    write_json(folder / _NAMES, {"format": native.format.name, "files": _grouped(native.files), "dtypes": _grouped(native.dtypes)})


def _copy_small(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for path in small_files(source):
        shutil.copyfile(path, target / path.name)


def _grouped(named: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in sorted(named.items()):
        found.setdefault(value, []).append(name)
    return found


def read_record(folder: Path) -> Record | None:
    """What a model directory remembers of the checkpoint that it was read from; None where it was not."""
    from safetensors.torch import load_file

    path = folder / RECORD / _NAMES
    if not path.is_file():
        return None
    said = hub_layout.read_json(path)
    files, dtypes = ({name: value for value, names in said[key].items() for name in names} for key in ("files", "dtypes"))
    kept = folder / RECORD / _KEPT
    return Record(
        format=NATIVE_FORMATS[said["format"]],
        published=read_published(folder / RECORD),
        files=files,
        dtypes=dtypes,
        kept=load_file(kept) if kept.is_file() else {},
    )


# ours -> published


def export(model_dir: Path, out: Path, format_name: str | None = None) -> list[str]:
    """The published form of a model directory, in the names, dtypes and files that it was read with where it was; `format_name` where it was not.

    Returns the names of tensors that the form has no place for: they are left out.
    Raises Refused (model/native-parts, model/native-cannot-say) with everything about the model that the format cannot say.
    """
    _, processor, _ = directory.load(model_dir)
    config = processor.config
    remembered = read_record(model_dir)
    chosen = _chosen(remembered, format_name)
    record = remembered if remembered and remembered.format is chosen else None
    tokens = Tokens(processor.tokenizer)
    written = chosen.write(config, tokens.id)
    tokens.refuse_too_many(config, str(model_dir))
    if problems := unsaid(chosen, config, written, model_dir):
        raise Refused(problems)
    needs = wanted(blank(config))
    tensors = everything(needs, directory.read_tensors(model_dir))
    place = str(model_dir)
    left_out = [need.name for need in needs if chosen.fresh(config) and need.name.startswith(chosen.fresh(config))]
    moves = _moves(chosen, config, record, {need.names[0] for need in needs if need.name not in left_out}, place)
    with artifact(out) as temporary:
        published = published_tensors(moves, tensors, place, record.dtypes if record else {})
        published |= record.kept if record else {}
        published |= {name: published[source] for name, source in chosen.copies.items() if record and name in record.files}
        write_weights(temporary, published, _files(record))
        _write_tokenizer(temporary, model_dir, processor, record, tokens)
        _write_settings(temporary, written, record, tokens, dtype_names(published))
    return left_out


def _chosen(record: Record | None, format_name: str | None) -> NativeFormat:
    name = format_name or (record.format.name if record else None)
    if name not in NATIVE_FORMATS:
        raise Refused(
            Problem(
                code="model/native-format",
                place="export",
                found=repr(name) if name else "a model that was not read from a published checkpoint",
                allowed=", ".join(NATIVE_FORMATS),
                fix="name the format",
            )
        )
    return NATIVE_FORMATS[name]


def _files(record: Record | None) -> dict[str, str] | None:
    """Files as they were, unless they were pickles."""
    return record.files if record and all(file.endswith(".safetensors") for file in record.files.values()) else None


def _moves(chosen: NativeFormat, config: ModelConfig, record: Record | None, names: set[str], place: str) -> list[Move]:
    """The names that the checkpoint was read with, while they still name every tensor; else each name in its first spelling."""
    rules = chosen.rules(config)
    if record is not None:
        moves = moves_in(rules, record.files.keys() - record.kept.keys() - chosen.copies.keys(), place)
        if names <= {name for move in moves for name in move.ours}:
            return moves
    return moves_out(rules, names, place)


def unsaid(chosen: NativeFormat, config: ModelConfig, written: Written, folder: Path) -> list[Problem]:
    """Every field that reads differently once it was written."""
    again = chosen.read(Published(folder=folder, said=written.config, preprocessor=written.preprocessor, processor=written.processor))
    ours, theirs = (_comparable(one) for one in (config, again))
    return [
        Problem(
            code="model/native-cannot-say",
            place=f"model.{path}",
            found=repr(ours.get(path)),
            allowed=f"{theirs.get(path)!r}: what {chosen.name} means by its settings",
            fix="change the model, or keep the Sightline model directory",
        )
        for path in sorted(ours.keys() | theirs.keys())
        if ours.get(path) != theirs.get(path)
    ]


def _comparable(config: ModelConfig) -> dict[str, Any]:
    """Fields that decide what is computed, by dotted path; without names of ours and what tokenizers say, and with config blocks as transformers completes them."""
    whole = config.model_dump(mode="json")
    for name in ("tokenizer", "side_tokenizer", "chat", "pictures", "max_tokens"):
        whole.pop(name)
    parts = [*whole["encoders"], *(part for part in whole.values() if isinstance(part, dict))]
    for part in parts:
        for name in ("name", "checkpoint", "attention", "begin", "ids", "tied"):
            part.pop(name, None)
        if isinstance(part.get("config"), dict):
            part["config"] = canonical(part["config"], "config")
        if part is whole["text_encoder"] and not part.get("padded"):  # where longer texts are cut, the tokenizer says
            part.pop("max_tokens", None)
        if part is whole["language_model"]:  # which tokens begin, end and pad is the tokenizer's to say
            part["config"] = {name: value for name, value in (part["config"] or {}).items() if name not in _ENDS}
    return dict(_leaves(whole, ""))


def _leaves(value: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{path}.{key}" if path else key)]
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return [leaf for number, inner in enumerate(value) for leaf in _leaves(inner, f"{path}.{number}")]
    return [(path, value)]


# settings and tokenizer


class Tokens:
    """Ids of tokens by name; one that the tokenizer lacks gets the next free id, and is added when the tokenizer is written."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer
        self.added: dict[str, int] = {}
        self._known = Tokenizer.from_str(tokenizer.document)

    def id(self, token: str) -> int:
        """Its id."""
        found = self._known.token_to_id(token)
        return self.added.setdefault(token, self.tokenizer.size + len(self.added)) if found is None else found

    def refuse_too_many(self, config: ModelConfig, place: str) -> None:
        """Refused where an added token has no row of the embeddings: published classes look up every id."""
        language: Any = config.language_model
        rows = language.block()["vocab_size"] + getattr(language, "extra_rows", 0) if language is not None else 0
        if language is not None and (over := [token for token, number in self.added.items() if number >= rows]):
            raise Refused(
                Problem(
                    code="model/native-token",
                    place=place,
                    found=f"{', '.join(over)} beside a tokenizer of {self.tokenizer.size} tokens",
                    allowed=f"ids below {rows}, the rows of the embeddings",
                    fix="train with a tokenizer that holds the token, or with a larger vocab_size",
                )
            )


def _write_tokenizer(folder: Path, model_dir: Path, processor: Processor, record: Record | None, tokens: Tokens) -> None:
    """The files that the checkpoint came with, while they are still true; else those of the model directory."""
    own = record.published.folder if record else model_dir
    for path in small_files(own):
        if path.name not in (_NAMES, *_OURS) and (record or path.name not in _SETTINGS):
            shutil.copyfile(path, folder / path.name)
    name = record.format.side if record else ""
    if name:
        _copy_small(own / name, folder / name)
    if record is None and tokens.added:
        write_text(folder / "tokenizer.json", extended(processor.tokenizer.document, tokens.added))
    if record is None:
        return
    config = native_config(record.published, record.format)
    before, side = tokenizers_of(record.published, record.format, config)
    if before.document != processor.tokenizer.document:
        processor.tokenizer.save(folder, template(processor.chat))
    elif config.chat_format() != processor.chat:
        write_text(folder / TEMPLATE, template(processor.chat))
    if side is not None and side.document != processor.side.document:
        processor.side.save(folder / record.format.side)


def _write_settings(folder: Path, written: Written, record: Record | None, tokens: Tokens, dtypes: Mapping[str, str]) -> None:
    """Settings as they were, while they still mean the same; where not, what the model says over what they said, so that keys of others stay."""
    if record is None:
        [*held] = dict.fromkeys(dtypes.values())
        write_json(folder / CONFIG, written.config | ({"dtype": held[0]} if len(held) == 1 else {}))
        write_json(folder / PREPROCESSOR, written.preprocessor)
        write_json(folder / PROCESSOR, written.processor)
        return
    before = record.format.write(record.format.read(record.published), tokens.id)
    published = record.published
    if written.config != before.config:
        absorbed = {*written.config, *written.config.get("text_config", {})}
        write_json(folder / CONFIG, {key: value for key, value in published.said.items() if key not in absorbed} | written.config)
    inside = "image_processor" in published.processor
    pictures = published.preprocessor | (written.preprocessor if written.preprocessor != before.preprocessor else {})
    around = published.processor | (written.processor if written.processor != before.processor else {})
    if pictures != published.preprocessor and not inside:
        write_json(folder / PREPROCESSOR, pictures)
    if around != published.processor or (inside and pictures != published.preprocessor):
        write_json(folder / PROCESSOR, around | ({"image_processor": pictures} if inside else {}))

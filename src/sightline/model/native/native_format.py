"""What a native format offers, and what formats have in common. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sightline.errors import Problem, Refused
from sightline.model.assembly import ModelConfig
from sightline.model.chat import CHAT_FORMATS, ChatFormat
from sightline.model.chat_templates import read_template
from sightline.model.encoders import EncoderConfig
from sightline.model.language import LanguageModelConfig
from sightline.model.native.key_rules import Rule, rename
from sightline.model.native.published_folder import Published, canonical

TokenId = Callable[[str], int]
"""Id of a token by name; one that the tokenizer lacks is given a free row."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """Published settings: config.json, and what the image processor and the processor around it are told."""

    config: dict[str, Any]
    preprocessor: dict[str, Any]
    processor: dict[str, Any]


class NativeFormat:
    """One published layout of checkpoints: what every format offers."""

    name: ClassVar[str]
    """Its name in the table."""
    kept: ClassVar[tuple[str, ...]] = (".position_ids", ".rotary_emb.inv_freq", ".attn.masked_bias")
    """Ends of names of tensors that some checkpoints hold and nothing computes with: buffers that are made anew. They are carried along."""
    copies: ClassVar[Mapping[str, str]] = {}
    """Published names under which some checkpoints hold a tensor once more -> the name of that tensor."""
    side: ClassVar[str] = ""
    """Folder of a second tokenizer, which belongs to side texts."""
    named: ClassVar[Mapping[str, str]] = {}
    """Names under which the published processor asks its tokenizer for tokens -> the tokens."""
    pictures: ClassVar[tuple[str, ...]] = ("in-place", "turn-start", "before-all", "first")
    """Where pictures may stand in a prompt that the published processor makes, as chat formats say it."""

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """Whether a config.json is of this format."""
        return config.get("model_type") == self.name

    def chat(self, published: Published) -> str | ChatFormat:
        """The chat format that such models were trained with: one of the table, or one of the checkpoint's own."""
        raise NotImplementedError

    def read(self, published: Published) -> ModelConfig:
        """The parts that these settings mean, resolved. Raises Refused for what no part does."""
        raise NotImplementedError

    def write(self, config: ModelConfig, token: TokenId) -> Written:
        """Settings that mean these parts. Raises Refused for parts of other kinds; what the settings cannot say is found by reading them again."""
        raise NotImplementedError

    def rules(self, config: ModelConfig) -> list[Rule]:
        """Which published tensors are which of ours."""
        raise NotImplementedError

    def fresh(self, config: ModelConfig) -> tuple[str, ...]:
        """Beginnings of names of ours that the published form has no place for: they start fresh when it is read, and are left out when it is written."""
        return ()

    def tokens(self, config: ModelConfig) -> dict[str, int]:
        """Ids of control tokens that the published tokenizer may lack, because its class adds them when it is used."""
        return {}

    def served(self, config: ModelConfig) -> ModelConfig:
        """The model as this form serves it: without what answers do not pass through. A codec is text by then: who asks writes regions as it does, and reads them so."""
        if config.language_model is None:
            return config
        codec = config.codec if config.codec is not None and config.codec.marks else None
        return config.model_copy(update={"codec": codec, "text_encoder": None})

    def picture_token(self, config: ModelConfig) -> str:
        """The token that stands for an entry of a picture."""
        return "<image>"

    def placeholder(self, config: ModelConfig) -> str:
        """What a chat template writes for a picture; the published processor makes tokens of it."""
        return self.picture_token(config)


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """How a checkpoint talks: its chat format, and why its template could not be read where that is so."""

    chat: str | ChatFormat
    problems: tuple[Problem, ...] = ()


def spoken(published: Published, default: str | ChatFormat) -> Spoken:
    """The chat format of the checkpoint's template; where it has none, or one of another form, `default`. A template does not say where pictures stand: `default` does."""
    if published.template is None:
        return Spoken(chat=default)
    known = CHAT_FORMATS[default] if isinstance(default, str) else default
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    specials = {name: token for name in names if (token := published.token(name))}
    try:
        found = read_template(published.template, specials, _controls(published), str(published.folder))
    except Refused as refused:
        said = f"chat format {known.name!r} is used instead"
        return Spoken(chat=default, problems=tuple(_warned(problem, said) for problem in refused.problems))
    found = found.model_copy(update={"name": known.name, "pictures": known.pictures, "picture_after": known.picture_after})
    return Spoken(chat=default if found == known else found.model_copy(update={"name": "published"}))


def _warned(problem: Problem, said: str) -> Problem:
    return Problem(code=problem.code, place=problem.place, found=problem.found, allowed=problem.allowed, fix=said, severity="warn")


def _controls(published: Published) -> list[str]:
    """Special tokens of the tokenizer, longest first."""
    listed = [token["content"] for token in published.tokens.get("added_tokens_decoder", {}).values() if token.get("special")]
    document = published.folder / "tokenizer.json"
    if document.is_file():
        from sightline.model.hub_layout import read_json

        listed += [token["content"] for token in read_json(document).get("added_tokens", []) if token.get("special")]
    return sorted(dict.fromkeys(listed), key=len, reverse=True)


def text_model(block: Mapping[str, Any], tied: bool, **fields: Any) -> LanguageModelConfig:
    """A causal language model of a published text block."""
    return LanguageModelConfig(config={**block, "tie_word_embeddings": tied}, **fields).resolve()


def whole_block(part: Any) -> dict[str, Any]:
    """The config block of a tower or a language model with every setting that transformers' class of it adds: a recipe may state only some."""
    return canonical(part.block(), part.kind)


def longest(block: Mapping[str, Any]) -> int:
    """Tokens that a language model takes: its positions, or its window where that is narrower."""
    window = block.get("sliding_window") if block.get("use_sliding_window", True) else None
    return min(limit for limit in (block.get("max_position_embeddings", 2048), window) if limit)


def language_rules(model: tuple[str, ...], head: tuple[str, ...]) -> list[Rule]:
    """A causal language model: spellings of the prefix of its decoder, and of its head."""
    own = "language_model.model.model."
    parts = ("embed_tokens.*", "layers.*", "norm.*")
    return [
        *(rename(own + part, *(prefix + part for prefix in model)) for part in parts),
        rename("language_model.model.lm_head.*", *(prefix + "*" for prefix in head)),
    ]


def refuse_kinds(config: ModelConfig, format_name: str, towers: Iterable[str] = (), **allowed: Iterable[str]) -> None:
    """Raises Refused (model/native-parts) with every part whose kind the format does not have. Parts that are not named must be absent; one encoder is allowed.

    `towers`: model types of an encoder of kind `transformers`.
    """
    parts = {name: getattr(config, name) for name in type(config).model_fields}
    kinds = {name: getattr(part, "kind", None) for name, part in parts.items() if name != "encoders"}
    kinds["heads"] = ", ".join(f"{name} head ({head.kind})" for name, head in config.heads.named().items()) or None
    kinds["encoders"] = ", ".join(str(getattr(encoder, "kind", None)) for encoder in config.encoders) or None
    own = {"layout": ("flat",), "fusion": ("sequence",), **{name: tuple(names) for name, names in allowed.items()}}
    problems = [
        Problem(
            code="model/native-parts",
            place=f"model.{name}",
            found=str(kind or "absent"),
            allowed=", ".join(own.get(name, ())) or "absent",
            fix=f"choose another native format than {format_name}, or keep the Sightline model directory",
        )
        for name, kind in kinds.items()
        if kind not in (own.get(name) or (None,))
    ]
    problems += [
        Problem(
            code="model/native-parts",
            place=f"model.{encoder.path}.config.model_type",
            found=str(known),
            allowed=" or ".join(towers),
            fix=f"choose another native format than {format_name}, or keep the Sightline model directory",
        )
        for encoder in config.encoders
        if towers and isinstance(encoder, EncoderConfig) and (known := encoder.block()["model_type"]) not in towers
    ]
    if problems:
        raise Refused(problems)

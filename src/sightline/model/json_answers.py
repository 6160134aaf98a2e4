"""Answers that are JSON, valid by a schema, in the tokens of a model."""

from __future__ import annotations

from sightline.errors import Problem, Refused
from sightline.model.processor import Processor
from sightline.model.token_grammar import TokenGrammar, in_tokens, vocabulary_of
from sightline.samples.json_schema import json_grammar

_SYNTAX = frozenset('{}[]",:\\ -+.0123456789eEtrufalsn')
"""Signs that JSON writes outside strings, or in escapes."""
_BYTES = frozenset((*range(0x20, 0x7F), *range(0x80, 0xC0), *range(0xC2, 0xF5)))
"""Bytes of well-formed texts."""


def json_tokens(processor: Processor, schema: object, place: str = "") -> TokenGrammar:
    """The grammar of a model's answers that are valid by a JSON schema; an answer may be cut off where `max_tokens` leaves no room for its end.

    A text that ends answers (`ChatFormat.stop`) never stands inside one: strings escape its first sign. `place`: JSON pointer of the schema. Raises Refused with every keyword outside the
    subset of `json_schema`, and where tokenizer or chat format cannot write JSON.
    """
    without = processor.chat.stop[:1]
    without = without if without.isprintable() else ""  # no such sign stands in JSON as itself
    if not without.isascii() or without in _SYNTAX:
        fix = "ask in words, and check what comes"
        raise Refused(Problem(code="model/no-json", place="chat.stop", found=processor.chat.stop, allowed="a text that JSON can do without", fix=fix))
    absent = _BYTES - vocabulary_of(processor.tokenizer).alone
    if absent:
        told = f"no token for {len(absent)} bytes, {min(absent):#04x} first"
        raise Refused(
            Problem(
                code="model/vocabulary-cannot-say", place="tokenizer", found=told, allowed="a token for each byte", fix="ask in words, and check what comes"
            )
        )
    return in_tokens(processor, json_grammar(schema, place, without), whole=False)

"""`response_format` json_object and json_schema: the grammar that an answer is held to."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict

from sightline.errors import Problem
from sightline.model.json_answers import json_tokens
from sightline.model.processor import Processor
from sightline.model.token_grammar import TokenGrammar
from sightline.samples.json_schema import ANY_OBJECT
from sightline.serve.jobs import Declined
from sightline.serve.protocol import ChatRequest

KEPT = 8
"""Schemas whose grammars are known again."""
LARGEST = 20_000
"""States of a grammar above which it is made anew: each takes a kilobyte."""
POINTER = "/response_format/json_schema/schema"


class JsonFormats:
    """Grammars of schemas that were asked for, in the tokens of one model."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self._known: OrderedDict[str, TokenGrammar] = OrderedDict()
        self._lock = threading.Lock()

    def grammar(self, request: ChatRequest) -> TokenGrammar | None:
        """What holds an answer to the JSON that is asked for; None where none is. Raises Declined, and Refused with every keyword that cannot be held to."""
        asked = json_asked(request)
        if asked is None:
            return None
        name = json.dumps(asked, ensure_ascii=False)
        with self._lock:
            found = self._known.pop(name, None)
            if found is None or len(found.automaton.least) > LARGEST:
                found = json_tokens(self.processor, asked, POINTER)
            self._known[name] = found
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        return found


def json_asked(request: ChatRequest) -> object | None:
    """The schema that an answer must be valid by; None where it need not be JSON. Raises Declined."""
    asked = request.response_format
    if asked is None or asked.type in ("text", "regions"):
        if asked is not None and asked.json_schema is not None:
            raise _wrong("response_format.json_schema", f"a schema beside type {asked.type}", "type: json_schema", "name the type")
        return None
    if request.stop:
        raise _wrong("stop", f"stop beside response_format {asked.type}", "an answer that ends where its JSON does", "drop stop")
    if (asked.json_schema is not None) != (asked.type == "json_schema"):
        raise _wrong(
            "response_format.json_schema",
            f"type {asked.type} with{'out' if asked.json_schema is None else ''} a schema",
            "a schema with type: json_schema",
            "correct it",
        )
    return ANY_OBJECT if asked.json_schema is None else asked.json_schema.schema_


def _wrong(place: str, found: str, allowed: str, fix: str) -> Declined:
    return Declined(400, Problem(code="serve/parameter", place=place, found=found, allowed=allowed, fix=fix))

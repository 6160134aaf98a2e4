"""How other engines are spoken to, beyond what all of them take."""

from __future__ import annotations

from dataclasses import dataclass

from sightline.errors import Problem, Refused

ENGINES: dict[str, dict[str, tuple[str, ...]]] = {
    "openai": {},
    "vllm": {"regex": ("structured_outputs", "regex"), "ebnf": ("structured_outputs", "grammar")},
    "vllm-guided": {"regex": ("guided_regex",), "ebnf": ("guided_grammar",)},
    "sglang": {"regex": ("regex",), "ebnf": ("ebnf",)},
    "sightline": {"regions": ("response_format", "type")},
}
"""Engine -> form of a grammar -> the field of a request that takes it. vllm-guided: vLLM before 0.12."""
SHOWING = frozenset(("vllm", "vllm-guided", "sglang"))
"""Engines that take `skip_special_tokens`: control tokens of a codec are shown on request."""
FORMS = ("none", "regex", "ebnf", "regions")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How one engine is spoken to."""

    engine: str = "openai"
    grammar: str = "none"
    """Form in which it takes the grammar of `response_format: regions`: one of ENGINES[engine], or none."""

    def __post_init__(self) -> None:
        allowed = ["none", *ENGINES[self.engine]]
        if self.grammar not in allowed:
            found, fix = f"{self.grammar} for {self.engine}", "choose another form, or name the engine: --upstream-engine"
            raise Refused(Problem(code="usage/upstream-grammar", place="--upstream-grammar", found=found, allowed=", ".join(allowed), fix=fix))

"""Regular expressions of codecs as EBNF: the same texts, read back by another road."""

from __future__ import annotations

import re

import numpy as np
import pytest
from test_grammar import SAID, grammar, walked

from sightline.samples.ebnf import expression_as_ebnf

_PART = re.compile(r'"(?P<text>(?:\\.|[^"\\])*)"|(?P<set>\[(?:\\.|[^\]\\])+\])|(?P<sign>[()|])|(?P<times>[*+?]|\{\d+(?:,\d*)?\})| ')
_ESCAPED = re.compile(r"\\(.)")


def read(rule: str) -> str:
    """An expression of Python of what a reader of GBNF makes of the rule."""
    name, _, body = rule.partition(" ::= ")
    assert name == "root"
    found, place = [], 0
    for part in _PART.finditer(body):
        assert part.start() == place, body[place : place + 20]
        place = part.end()
        if part["text"] is not None:
            plain = _ESCAPED.sub(lambda one: "\n" if one[1] == "n" else one[1], part["text"])
            found.append(f"(?:{re.escape(plain)})")
        else:
            found.append(part["set"] or (part["sign"] and part["sign"].replace("(", "(?:")) or part["times"] or "")
    assert place == len(body)
    return "".join(found)


@pytest.mark.parametrize("name", SAID)
def test_a_rule_is_the_language_of_the_expression(name: str) -> None:
    rng = np.random.default_rng(7)
    for said in ("region", "regions"):
        language = grammar(name, said)
        again = re.compile(read(expression_as_ebnf(language.regex)))
        for _ in range(15):
            text = walked(language, rng, 80)
            assert again.fullmatch(text), text
            spoiled = text[:-1] + "~"
            assert bool(again.fullmatch(spoiled)) == bool(re.fullmatch(language.regex, spoiled))
            cut = text[: int(rng.integers(len(text)))]
            assert bool(again.fullmatch(cut)) == bool(re.fullmatch(language.regex, cut)), cut


@pytest.mark.parametrize(
    ("expression", "rule"),
    [
        ("ab", 'root ::= "ab"'),
        ("ab*", 'root ::= "a" "b"*'),
        ("(?:ab|[0-9]{2})+", 'root ::= ( "ab" | [0-9]{2} )+'),
        ('\\{"\\\\', 'root ::= "{\\"\\\\"'),
        ("[^ \\n<\uff1c\\]]+", "root ::= [^\\x20\\x0A\\x3C\uff1c\\x5D]+"),
        ("(?: x[0-9]+){2,}", 'root ::= ( " x" [0-9]+ ){2,}'),
    ],
)
def test_what_is_written(expression: str, rule: str) -> None:
    assert expression_as_ebnf(expression) == rule

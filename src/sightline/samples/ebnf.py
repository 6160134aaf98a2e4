"""Regular expressions of `grammar` as EBNF, for engines that take grammars in the form of llama.cpp (GBNF) and xgrammar."""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"(?P<open>\(\?:)|(?P<sign>[)|])|(?P<set>\[\^?(?:\\.|[^\]\\])+\])|(?P<times>[*+?]|\{\d+(?:,\d*)?\})|\\(?P<escaped>.)|(?P<plain>.)", re.DOTALL
)
_MEMBER = re.compile(r"\\(?P<escaped>.)|(?P<plain>.)", re.DOTALL)
_NAMED = {"n": "\n", "r": "\r", "t": "\t"}


def expression_as_ebnf(expression: str) -> str:
    """The same language as one rule `root`. Of expressions as `Node.regex` writes them: signs, sets, groups, alternatives and repeats."""
    items: list[str] = []
    text = ""
    for token in _TOKEN.finditer(expression):
        if (sign := token["escaped"] or token["plain"]) is not None:
            text += sign
            continue
        if token["times"] is not None and text:
            items += [*([_quoted(text[:-1])] if text[:-1] else []), _quoted(text[-1]) + token["times"]]
        else:
            items += [_quoted(text)] if text else []
            if token["times"] is not None:
                items[-1] += token["times"]
            else:
                items.append("(" if token["open"] is not None else token["sign"] or _set(token["set"]))
        text = ""
    return "root ::= " + " ".join([*items, *([_quoted(text)] if text else [])])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _set(told: str) -> str:
    """A set of signs; those that mean something in one are written by their number."""
    begin = "[^" if told.startswith("[^") else "["
    found = []
    for member in _MEMBER.finditer(told[len(begin) : -1]):
        sign = _NAMED.get(member["escaped"], member["escaped"]) if member["escaped"] is not None else member["plain"]
        plain = sign.isalnum() or ord(sign) > 0x7F or (sign == "-" and member["escaped"] is None)
        found.append(sign if plain else f"\\x{ord(sign):02X}")
    return begin + "".join(found) + "]"

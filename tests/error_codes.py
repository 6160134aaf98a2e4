"""The codes of all problems that the source can raise, read out of its syntax.

A code is a string `room/kebab-case`, written whole or as a template `f"room/{code}"` whose last part is an argument: the calls of that function are followed, over wrappers, to the literals.
What cannot be followed is named in `UNFOLLOWED`.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

CODE = re.compile(r"[a-z]+/[a-z0-9]+(?:-[a-z0-9]+)*")
_LAST = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
ROOMS = (
    "bridges", "canary", "data", "evaluate", "export", "failure", "model", "plan", "recipe", "refine", "review", "run", "samples", "serve", "soup", "train", "usage",
)  # fmt: skip
UNFOLLOWED = {
    "evaluate/asking.py": ("missing-answer", "strange-answer", "repeated-answer"),
    "recipe_findings.py": ("unknown-key", "missing-key", "unknown-kind", "wrong-type", "value"),
    "samples/geo_rasters.py": ("bands", "unsupported-depth", "block-too-large"),
    "train/soup_adapters.py": ("dora", "rounded", "alphas"),
}
"""Modules with a template whose last part comes out of a mapping or a list, and what can stand there."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source:
    """The modules below a folder. `codes`: every code, with a place for each; `unfollowed`: modules with templates that lead to no literal; `texts`: the string constants of each module."""

    def __init__(self, folder: Path) -> None:
        self.codes: dict[str, str] = {}
        self.unfollowed: set[str] = set()
        self.texts: dict[str, set[str]] = defaultdict(set)
        self._within: dict[str, dict[ast.AST, Function | None]] = {}
        self._calls: dict[str, list[tuple[str, ast.Call]]] = defaultdict(list)
        self._defined: Counter[str] = Counter()
        self._imported: set[tuple[str, str, str]] = set()
        """(module, module that it imports from, name)"""
        templates: list[tuple[str, str, ast.expr]] = []
        for path in sorted(folder.rglob("*.py")):
            module = path.relative_to(folder).as_posix()
            self._within[module] = _within(ast.parse(path.read_text(encoding="utf-8")))
            for node in self._within[module]:
                self._note(module, node)
                if parts := _template(node):
                    templates.append((module, *parts))
        for module, begin, value in templates:
            self._follow(module, value, begin, ())
            if module in UNFOLLOWED and module in self.unfollowed:
                self.codes |= {begin + last: module for last in UNFOLLOWED[module] if last in self.texts[module]}

    def _note(self, module: str, node: ast.AST) -> None:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            self.texts[module].add(node.value)
            if node.value.partition("/")[0] in ROOMS and CODE.fullmatch(node.value):
                self.codes.setdefault(node.value, f"{module}:{node.lineno}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            self._calls[node.func.id if isinstance(node.func, ast.Name) else node.func.attr].append((module, node))
        elif isinstance(node, Function):
            self._defined[node.name] += 1
        elif isinstance(node, ast.ImportFrom):
            origin = (node.module or "").partition(".")[2].replace(".", "/") + ".py"
            self._imported |= {(module, origin, alias.name) for alias in node.names}

    def _follow(self, module: str, value: ast.expr, begin: str, seen: tuple[str, ...]) -> None:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            if _LAST.fullmatch(value.value):
                self.codes.setdefault(begin + value.value, f"{module}:{value.lineno}")
        elif isinstance(value, ast.IfExp):
            self._follow(module, value.body, begin, seen)
            self._follow(module, value.orelse, begin, seen)
        elif (function := self._parameter_of(module, value)) is None:
            self.unfollowed.add(module)
        elif f"{module}:{function.lineno}" not in seen:
            for caller, argument in self._arguments(module, function, ast.unparse(value)):
                self._follow(caller, argument, begin, (*seen, f"{module}:{function.lineno}"))

    def _parameter_of(self, module: str, value: ast.expr) -> Function | None:
        """The function whose parameter a name is."""
        function = self._within[module].get(value)
        while function is not None and not (isinstance(value, ast.Name) and value.id in _parameters(function)):
            function = self._within[module].get(function)
        return function

    def _arguments(self, module: str, function: Function, parameter: str) -> Iterator[tuple[str, ast.expr]]:
        names = _parameters(function)
        method = names[:1] == ["self"]
        nested = self._within[module].get(function) is not None
        for caller, call in self._calls[function.name]:
            known = self._defined[function.name] == 1 if method else (caller, module, function.name) in self._imported
            if isinstance(call.func, ast.Name) == method or (caller != module and (nested or not known)):
                continue
            given = next((keyword.value for keyword in call.keywords if keyword.arg == parameter), None)
            place = names.index(parameter) - method
            if given is not None or place < len(call.args):
                yield caller, given or call.args[place]


def _within(tree: ast.AST) -> dict[ast.AST, Function | None]:
    """Every node below, with the function that it stands in."""
    found: dict[ast.AST, Function | None] = {}
    left: list[tuple[ast.AST, Function | None]] = [(tree, None)]
    while left:
        node, function = left.pop()
        inside = node if isinstance(node, Function) else function
        for child in ast.iter_child_nodes(node):
            found[child] = inside
            left.append((child, inside))
    return found


def _parameters(function: Function) -> list[str]:
    return [one.arg for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]


def _template(node: ast.AST) -> tuple[str, ast.expr] | None:
    """`code=f"room/{last}"`, or `f"room/begin-{last}"` anywhere, as what it begins with and what comes last. `f"data/{name}"` elsewhere is the name of a node of a run."""
    text = node.value if isinstance(node, ast.keyword) and node.arg == "code" else node
    if not isinstance(text, ast.JoinedStr):
        return None
    match text.values:
        case [ast.Constant(value=str(begin)), ast.FormattedValue(value=value)] if re.fullmatch(rf"(?:{'|'.join(ROOMS)})/(?:[a-z-]+-)?", begin):
            return (begin, value) if text is not node or not begin.endswith("/") else None
    return None

"""Definitions of ours as files that import nothing of ours, for models that run without Sightline.

    roots --what they name, as often as needed--> definitions, module by module --imports made relative--> {file name: text}

A top-level definition is carried when carried code names it, a method when carried code names an attribute like it. Tables of kinds, validators of recipes and methods that
nobody calls stay behind. Text is ours, line by line; pydantic's base class is exchanged for `plain_config`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

PACKAGE = "sightline"
_SOURCES = Path(__file__).parents[2]
_PLAIN = f"{PACKAGE}.export.remote_code_files.plain_config"
_EXCHANGED = {
    ("pydantic", "Field"): (_PLAIN, "Field"),
    (f"{PACKAGE}.kinds", "Config"): (_PLAIN, "Config"),
    (f"{PACKAGE}.kinds", "located"): (_PLAIN, "located"),
}
_LEFT = ("pydantic", f"{PACKAGE}.kinds")
"""Modules of which nothing else is carried."""
_VALIDATORS = {"model_validator", "field_validator"}
_HEAD = "# Part of a model that Sightline exported: what it needs of {}. Apache-2.0.\n"
Definition = tuple[str, str]
"""Module and name."""


@dataclass(frozen=True, kw_only=True)
class _Module:
    """One source file: its statements by the names that they define, and what its other names are."""

    name: str
    lines: list[str]
    docstring: ast.stmt
    statements: list[ast.stmt]
    defined: dict[str, ast.stmt]
    ours: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    """Name -> module and name there; None: the module itself."""
    theirs: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    """Name -> package and name there; None: the package itself."""
    typed: set[str] = field(default_factory=set)
    """Names that only type checkers import."""

    @property
    def file(self) -> str:
        """Its name in an exported folder."""
        return f"{self.name.rpartition('.')[2]}.py"


@cache
def _module(name: str) -> _Module:
    path = _SOURCES.joinpath(*name.split(".")).with_suffix(".py")
    text = path.read_text(encoding="utf-8")
    docstring, *body = ast.parse(text).body
    defined = {own: statement for statement in body for own in _names(statement)}
    found = _Module(name=name, lines=text.splitlines(keepends=True), docstring=docstring, statements=body, defined=defined)
    for statement in body:
        checked = isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"
        for inner in statement.body if checked and isinstance(statement, ast.If) else [statement]:
            for own, (module, symbol) in _imports(inner):
                target = found.ours if module.split(".")[0] == PACKAGE or (module, symbol) in _EXCHANGED else found.theirs
                target[own] = _EXCHANGED.get((module, symbol or ""), (module, symbol))
                if checked:
                    found.typed.add(own)
    return found


def _names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target] if isinstance(statement, ast.AnnAssign) else []
    return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]


def _imports(statement: ast.AST) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """Names that an import binds, with what they are."""
    if isinstance(statement, ast.Import):
        yield from ((alias.asname or alias.name.split(".")[0], (alias.name, None)) for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom) and statement.module not in (None, "__future__"):
        for alias in statement.names:
            inner = f"{statement.module}.{alias.name}"
            whole = inner.startswith(f"{PACKAGE}.") and _SOURCES.joinpath(*inner.split(".")).with_suffix(".py").is_file()
            yield alias.asname or alias.name, (inner, None) if whole else (str(statement.module), alias.name)


@dataclass(kw_only=True)
class _Closure:
    """What is carried so far."""

    whole: set[str]
    """Modules that are carried whole: the roots."""
    given: set[str]
    """Modules whose text is written for this model."""
    needed: set[Definition] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)

    def members(self, module: _Module, statement: ast.stmt) -> list[ast.stmt] | None:
        """The statements of a class that are carried; None: all of the statement is."""
        if not isinstance(statement, ast.ClassDef) or module.name in self.whole:
            return None
        return [member for member in statement.body if not isinstance(member, ast.FunctionDef) or self._called(member)]

    def _called(self, method: ast.FunctionDef) -> bool:
        checked = any(isinstance(node, ast.Name) and node.id in _VALIDATORS for one in method.decorator_list for node in ast.walk(one))
        return not checked and (method.name in self.attributes or method.name == "forward" or (method.name.startswith("__") and method.name.endswith("__")))

    def grow(self) -> bool:
        """Take what the carried statements name; whether that was anything new."""
        before = len(self.needed), len(self.attributes)
        for name in sorted({module for module, _ in self.needed} | self.whole):
            module = _module(name)
            for statement in self.statements(module):
                for node in self._carried(module, statement):
                    self._take(module, node)
        return (len(self.needed), len(self.attributes)) != before

    def statements(self, module: _Module) -> list[ast.stmt]:
        """The statements of a module that are carried, in their order."""
        if module.name in self.whole:
            return [one for one in module.statements if not isinstance(one, ast.Import | ast.ImportFrom) and not _is_text(one)]
        return [one for one in module.statements if any((module.name, own) in self.needed for own in _names(one))]

    def _carried(self, module: _Module, statement: ast.stmt) -> Iterator[ast.AST]:
        members = self.members(module, statement)
        if members is None or not isinstance(statement, ast.ClassDef):
            yield statement
            return
        yield from (one for one in statement.decorator_list if not _adds(one))
        yield from statement.bases
        yield from members

    def _take(self, module: _Module, tree: ast.AST) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                self.attributes.add(node.attr)
                base = module.ours.get(node.value.id) if isinstance(node.value, ast.Name) else None
                if base is not None and base[1] is None:
                    self._need(base[0], node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                self.attributes.add(node.value)  # getattr and hasattr
            elif isinstance(node, ast.ImportFrom):
                for _, (inner, symbol) in _imports(node):
                    if inner.split(".")[0] == PACKAGE and symbol is not None:
                        self._need(inner, symbol)
            elif isinstance(node, ast.Name):
                if node.id in module.defined:
                    self._need(module.name, node.id)
                elif node.id in module.ours and node.id not in module.typed and (symbol := module.ours[node.id][1]) is not None:
                    self._need(module.ours[node.id][0], symbol)

    def _need(self, module: str, name: str) -> None:
        if module in _LEFT or module in self.whole | self.given:
            return
        own = _module(module)
        if name in own.defined and not _is_family(own.defined[name]):
            self.needed.add((module, name))
        elif name in own.ours and (symbol := own.ours[name][1]) is not None:
            self._need(own.ours[name][0], symbol)


def _adds(decorator: ast.expr) -> bool:
    """`@FAMILY.add`."""
    return isinstance(decorator, ast.Attribute) and decorator.attr == "add"


def _is_text(statement: ast.stmt) -> bool:
    """The string below a variable."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _is_family(statement: ast.stmt) -> bool:
    value = getattr(statement, "value", None)
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "Family"


def subset(whole: Sequence[str], also: Iterable[Definition], given: Mapping[str, str]) -> dict[str, str]:
    """File name -> text of modules that are carried `whole`, of the definitions `also`, and of everything of ours that these need.

    `given`: modules whose text is written for this model, by name; what it needs stands in `also`.
    """
    closure = _Closure(whole=set(whole), given=set(given))
    for module, name in also:
        closure._need(module, name)
    while closure.grow():
        pass
    files = {f"{name.rpartition('.')[2]}.py": _HEAD.format(name) + text for name, text in given.items()}
    for name in sorted({module for module, _ in closure.needed} | closure.whole):
        module = _module(name)
        assert module.file not in files, f"two modules are called {module.file}"
        files[module.file] = _written(module, closure)
    return files


def _written(module: _Module, closure: _Closure) -> str:
    """The carried part of a module, its imports made relative."""
    body = "\n\n".join(_text(module, statement, closure).strip("\n") + "\n" for statement in closure.statements(module))
    body = _relative(body)
    known = dict(module.ours)
    for own, (target, symbol) in module.ours.items():
        if symbol is None:  # `module.name` becomes `name`, imported from the file
            body = re.sub(rf"\b{own}\.(\w+)", r"\1", body)
            known.update({name: (target, name) for name in _module(target).defined if (target, name) in closure.needed})
    body = re.sub(r"Annotated\[(\w+), [A-Z_]+\]", r"\1", body)
    used = {node.id for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name)} - set(module.defined)
    carried = closure.needed | {(name, symbol) for name in closure.whole | closure.given for symbol in _symbols(name)}
    theirs = {own: where for own, where in module.theirs.items() if own in used and where[0] not in _LEFT}
    ours = {own: where for own, where in known.items() if own in used and where[1] is not None and _origin(where) in carried}
    blocks = [
        _import_lines({own: where for own, where in names.items() if own not in module.typed}, relative) for names, relative in ((theirs, False), (ours, True))
    ]
    typed = [
        _import_lines({own: where for own, where in names.items() if own in module.typed}, relative) for names, relative in ((theirs, False), (ours, True))
    ]
    lines = [f"    {line}" for block in typed for line in block]
    if lines:
        blocks[0] = sorted({*blocks[0], "from typing import TYPE_CHECKING"})
        blocks.append(["if TYPE_CHECKING:", *lines])
    docstring = "".join(module.lines[module.docstring.lineno - 1 : module.docstring.end_lineno])
    head = "\n\n".join("\n".join(block) for block in (["from __future__ import annotations"], *blocks) if block)
    return f"{_HEAD.format(module.name)}{docstring}\n{head}\n\n\n{body}"


def _symbols(name: str) -> list[str]:
    return list(_module(name).defined)


def _origin(where: tuple[str, str | None]) -> tuple[str, str | None]:
    """Where a name is defined that a module may hand on."""
    module, symbol = where
    own = _module(module)
    return _origin(own.ours[symbol]) if symbol not in own.defined and symbol in own.ours else where


def _import_lines(names: Mapping[str, tuple[str, str | None]], relative: bool) -> list[str]:
    grouped: dict[str, list[str]] = {}
    plain = []
    for own, where in names.items():
        module, symbol = _origin(where) if relative else where
        if symbol is None:
            plain.append(f"import {module}" if own == module.split(".")[0] else f"import {module} as {own}")
        else:
            grouped.setdefault(f".{module.rpartition('.')[2]}" if relative else module, []).append(symbol if own == symbol else f"{symbol} as {own}")
    return [*sorted(plain), *(f"from {module} import {', '.join(sorted(found))}" for module, found in sorted(grouped.items()))]


def _text(module: _Module, statement: ast.stmt, closure: _Closure) -> str:
    """The source of a statement, with the comment above it, less what is not carried; a variable with the string below it."""
    first, last = _span(module, statement)
    lines = module.lines[first:last]
    gone: set[int] = set()
    for decorator in getattr(statement, "decorator_list", ()):
        if _adds(decorator):
            gone.update(range(decorator.lineno - 1, decorator.end_lineno or 0))
    members = closure.members(module, statement)
    if members is not None and isinstance(statement, ast.ClassDef):
        for member in statement.body:
            if member not in members:
                start, end = _span(module, member)
                gone.update(range(start - (module.lines[start - 1].strip() == ""), end))
    following = module.statements.index(statement) + 1
    told = module.statements[following] if following < len(module.statements) else None
    if isinstance(statement, ast.Assign | ast.AnnAssign) and told is not None and _is_text(told):
        lines = module.lines[first : told.end_lineno]
    return "".join(line for number, line in enumerate(lines, first) if number not in gone)


def _span(module: _Module, statement: ast.stmt) -> tuple[int, int]:
    """First line, decorators and the comment above them included, and the line after the last."""
    first = min([statement.lineno, *(one.lineno for one in getattr(statement, "decorator_list", ()))]) - 1
    while first and module.lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return first, statement.end_lineno or statement.lineno


def _relative(text: str) -> str:
    """Imports inside functions, made relative."""
    return re.sub(rf"from {PACKAGE}(?:\.\w+)*\.(\w+) import", r"from .\1 import", text)

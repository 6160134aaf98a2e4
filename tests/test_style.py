"""Style that a formatter does not see: sizes, typed and documented definitions, documented recipe fields, selection by kinds only, no machine's paths.

Each guard is a function from a file's tree or text to findings, shown to fail on a toy before it runs on the package.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

LONGEST_FUNCTION = 80
LONGEST_FILE = 400
Definition = ast.FunctionDef | ast.AsyncFunctionDef
# A path of one machine, in whatever text; the pattern does not match itself
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:work|root|home|Users|tmp|mnt|opt)/\w")
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
TEXTS = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".json", ".sh", ""}


def code_lines(text: str) -> int:
    """Lines that hold code: not blank, not comments, not docstrings."""
    lines: set[int] = set()
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in quiet:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def sizes(text: str) -> Iterator[str]:
    """Files and functions that are too long to be read in one go."""
    if (count := code_lines(text)) > LONGEST_FILE:
        yield f"{count} lines of code, at most {LONGEST_FILE}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, Definition) and (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION:
            yield f"line {node.lineno}: {node.name} has {length} lines, at most {LONGEST_FUNCTION}"


def stars(text: str) -> Iterator[str]:
    """`import *`."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            yield f"line {node.lineno}: import *"


def guesses(text: str) -> Iterator[str]:
    """Selection by a piece of a lower-cased name, such as `"clip" in name.lower()`: kinds are chosen by tables."""
    tree = ast.parse(text)
    lowered = {
        target.id for node in ast.walk(tree) if isinstance(node, ast.Assign) and _lowers(node.value) for target in node.targets if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Constant) and isinstance(node.left.value, str):
            for operator, right in zip(node.ops, node.comparators, strict=True):
                if isinstance(operator, ast.In | ast.NotIn) and (_lowers(right) or (isinstance(right, ast.Name) and right.id in lowered)):
                    yield f"line {node.lineno}: {ast.unparse(node)}"


def _lowers(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("lower", "casefold")


def untyped(text: str) -> Iterator[str]:
    """Functions with an argument or a result that has no type."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, Definition):
            arguments = node.args
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *filter(None, (arguments.vararg, arguments.kwarg))]
            if node.returns is None or any(argument.annotation is None and argument.arg not in ("self", "cls") for argument in every):
                yield f"line {node.lineno}: {node.name}"


def undocumented(text: str) -> Iterator[str]:
    """Modules, public classes and public functions of modules without a docstring."""
    tree = ast.parse(text)
    if tree.body and not ast.get_docstring(tree):
        yield "the module"
    for node in tree.body:
        if isinstance(node, ast.ClassDef | Definition) and not node.name.startswith("_") and not ast.get_docstring(node):
            yield f"line {node.lineno}: {node.name}"


def undocumented_fields(texts: dict[str, str]) -> Iterator[str]:
    """Fields of Config classes without the string below them that editors and `recipe schema` show. `kind` explains itself."""
    classes = [(name, node) for name, text in texts.items() for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    configs, before = {"Config"}, 0
    while len(configs) > before:
        before = len(configs)
        configs |= {node.name for _, node in classes if any(ast.unparse(parent).split("[")[0] in configs for parent in node.bases)}
    for name, node in classes:
        if node.name in configs:
            for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name) or "ClassVar" in ast.unparse(field.annotation):
                    continue
                said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
                if field.target.id != "kind" and not said:
                    yield f"{name}: {node.name}.{field.target.id}"


def texts_of(repository: Path) -> dict[str, str]:
    """Every text file that the project ships, by its path."""
    folders = ("src", "tests", "tools", "recipes", "docs", "benchmarks", "deploy")
    files = [
        path for folder in folders for path in (repository / folder).rglob("*") if path.is_file() and path.suffix in TEXTS and "__pycache__" not in path.parts
    ]
    files += [path for path in repository.iterdir() if path.is_file() and path.suffix in TEXTS]
    return {path.relative_to(repository).as_posix(): path.read_text(encoding="utf-8") for path in files}


LONG = "def f() -> None:\n" + "    g()\n" * LONGEST_FUNCTION


@pytest.mark.parametrize(
    ("guard", "bad", "good"),
    [
        (sizes, LONG, LONG.replace("    g()\n", "", 1)),
        (sizes, "x = 1\n" * (LONGEST_FILE + 1), "x = 1\n" * LONGEST_FILE + "# why\n\n" * 50),
        (stars, "from os import *\n", "from os import path\n"),
        (guesses, "if 'clip' in path.name.lower(): pass\n", "if 'clip' in TABLE: pass\n"),
        (guesses, "low = name.lower()\nx = 'clip' not in low\n", "low = name.lower()\nx = low == 'clip'\n"),
        (untyped, "def f(a) -> None: ...\n", "def f(self, a: int, *b: int, **c: int) -> None: ...\n"),
        (untyped, "class A:\n    def f(self): ...\n", "f = lambda a: a\n"),
        (undocumented, "'''M.'''\ndef f(): ...\n", "'''M.'''\ndef _f(): ...\n"),
        (undocumented, "x = 1\n", ""),
    ],
)
def test_guards_find_what_they_guard_against(guard: Callable[[str], Iterator[str]], bad: str, good: str) -> None:
    assert list(guard(bad)) != []
    assert list(guard(good)) == []


def test_the_guard_of_fields_sees_grandchildren() -> None:
    texts = {
        "a.py": "class A(Config):\n    x: int = 1\n    'Said.'\n    kind: str = 'a'\n",
        "b.py": "class B(A):\n    y: int\n    z: int\n    'Said.'\nclass C:\n    w: int\n",
    }
    assert list(undocumented_fields(texts)) == ["b.py: B.y"]


def test_machine_paths_are_seen() -> None:
    assert MACHINE_PATH.search("see " + "/".join(["", "home", "me", "x"]))
    assert not MACHINE_PATH.search("a/home/b, recipes/tmp/x, https://host/work/x, ~/work/x")


@pytest.mark.parametrize("guard", [sizes, stars, guesses, untyped, undocumented])
def test_the_package_keeps_its_style(guard: Callable[[str], Iterator[str]], repository: Path) -> None:
    files = [*(repository / "src").rglob("*.py"), *(repository / "tools").rglob("*.py"), *(repository / "benchmarks").rglob("*.py")]
    assert [f"{path.relative_to(repository)} {finding}" for path in files for finding in guard(path.read_text(encoding="utf-8"))] == []


def test_every_recipe_field_is_documented(repository: Path) -> None:
    texts = {name: text for name, text in texts_of(repository).items() if name.startswith("src/") and name.endswith(".py")}
    assert list(undocumented_fields(texts)) == []


def test_nothing_unfinished_and_no_path_of_one_machine(repository: Path) -> None:
    found = [(name, match[0]) for name, text in texts_of(repository).items() for pattern in (MACHINE_PATH, UNFINISHED) for match in pattern.finditer(text)]
    assert found == []


CHINESE = re.compile("[\u3001-\u303f\u4e00-\u9fff\uff01-\uff5e]")
"""Signs of Chinese text, punctuation and wide forms included."""


def odd_signs(text: str) -> Iterator[str]:
    """Signs that are no ASCII, but for Chinese in string literals: what people say and read has two languages, code has one."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        said = CHINESE.sub("", token.string) if token.type == tokenize.STRING or token.type == getattr(tokenize, "FSTRING_MIDDLE", None) else token.string
        if not said.isascii():
            yield f"{token.start[0]}: {said.strip()[:40]}"


def test_code_is_plain_ascii(repository: Path) -> None:
    assert list(odd_signs("x = 'a \u2014 b'\n")) and list(odd_signs("# \u6c34\n")) and not list(odd_signs("x = '\u6c34'\n"))
    files = [*(repository / "src").rglob("*.py"), *(repository / "tools").rglob("*.py")]
    assert [f"{path.relative_to(repository)} {finding}" for path in files for finding in odd_signs(path.read_text(encoding="utf-8"))] == []

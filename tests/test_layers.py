"""The house of rooms: imports go down only, no import-time cycles, names that say something, and rooms that never meet torch.

Each guard is a function from a source folder to findings, so that it is first shown to fail on a toy package and then run on the real one.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

GROUND = {"errors", "kinds", "progress", "lineage", "page"}
BELOW = {
    "ground": set(),
    "samples": {"ground"},
    "data": {"ground", "samples"},
    "model": {"ground", "samples"},
    "train": {"ground", "samples", "data", "model"},
    "evaluate": {"ground", "samples", "data", "model", "train"},
}
UPSTAIRS = {"ground", *BELOW}
BELOW |= dict.fromkeys(("refine", "serve", "export"), UPSTAIRS)
BELOW |= {"roof": set(BELOW)}
BELOW |= {"cli": set(BELOW)}
TORCH_FREE = {"ground", "samples", "data"}
TORCH = {"torch", "torchvision", "transformers", "tokenizers", "safetensors", "peft", "accelerate"}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "misc"}


def modules(source: Path) -> dict[str, Path]:
    """Dotted name -> file of every module under `source`."""
    return {".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__"): path for path in sorted(source.rglob("*.py"))}


def room(module: str) -> str:
    """The room of a dotted module name: a folder of the package, the ground floor, or the roof."""
    parts = module.split(".")[1:]
    if not parts or parts[0] in GROUND:
        return "ground"
    if parts[0] == "__main__":
        return "cli"
    return parts[0] if parts[0] in BELOW else "roof"


def imports(source: Path, at_import_time: bool = False) -> Iterator[tuple[str, str, int]]:
    """(module, what it imports, line), ours and others'; lazy imports count unless only those of import time are asked for."""
    known = modules(source)
    for module, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in _statements(tree) if at_import_time else ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from ((module, alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                origin = "." * node.level + (node.module or "")
                for alias in node.names:
                    inner = f"{origin}.{alias.name}"
                    yield module, inner if inner in known else origin, node.lineno


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module is imported: not the bodies of functions, not what only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            continue
        yield node
        yield from _statements(node)


def upward(source: Path, package: str = "sightline") -> list[str]:
    """Imports that are relative, or go to a room that is not below."""
    found = []
    for module, target, line in imports(source):
        if target.startswith("."):
            found.append(f"{module}:{line} imports relatively")
        elif target.split(".")[0] == package and room(target) != room(module) and room(target) not in BELOW[room(module)]:
            found.append(f"{module}:{line} ({room(module)}) imports {target} ({room(target)})")
    return found


def cycles(source: Path) -> list[str]:
    """Modules that reach themselves through imports that run when they are imported."""
    graph: dict[str, set[str]] = {module: set() for module in modules(source)}
    for module, target, _ in imports(source, at_import_time=True):
        if target in graph and target != module:
            graph[module].add(target)
    while leaves := {module for module, targets in graph.items() if not targets}:
        graph = {module: targets - leaves for module, targets in graph.items() if module not in leaves}
    reaching = {module for module, targets in graph.items() if any(module in graph[target] for target in targets)}
    return sorted(reaching or graph)


def names(source: Path) -> list[str]:
    """Module names that say nothing, or stand twice."""
    stems = [path.stem for path in modules(source).values() if path.stem != "__init__"]
    folders = {path.parent.name for path in modules(source).values()}
    return sorted(
        {f"{name} says nothing" for name in {*stems, *folders} & FORBIDDEN_NAMES}
        | {f"{name} stands twice" for name, count in Counter(stems).items() if count > 1}
    )


def heavy(source: Path) -> list[str]:
    """Imports of torch and its company in rooms that do without, lazy ones too."""
    return [f"{module}:{line} imports {target}" for module, target, line in imports(source) if room(module) in TORCH_FREE and target.split(".")[0] in TORCH]


def whole_systems(source: Path) -> list[str]:
    """Uses of a published system's own class outside `export`: everywhere else systems are composed of parts."""
    found = []
    for module, path in modules(source).items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node, "id", None) or getattr(node, "attr", None) or (node.name if isinstance(node, ast.alias) else "")
            if isinstance(name, str) and name.endswith("ForConditionalGeneration") and room(module) != "export":
                found.append(f"{module} uses {name}")
    return found


def toy(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / "sightline" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("guard", "files", "finding"),
    [
        (
            upward,
            {"errors.py": "from sightline.samples import sample", "samples/sample.py": ""},
            "sightline.errors:1 (ground) imports sightline.samples.sample (samples)",
        ),
        (upward, {"data/a.py": "def f():\n    import sightline.model.b\n", "model/b.py": ""}, "sightline.data.a:2 (data) imports sightline.model.b (model)"),
        (upward, {"run.py": "from sightline.cli.main import x"}, "sightline.run:1 (roof) imports sightline.cli.main (cli)"),
        (upward, {"data/a.py": "from . import b", "data/b.py": ""}, "sightline.data.a:1 imports relatively"),
        (
            cycles,
            {"data/a.py": "import sightline.data.b", "data/b.py": "from sightline.data import a", "data/c.py": "import sightline.data.a"},
            "sightline.data.a",
        ),
        (names, {"data/utils.py": ""}, "utils says nothing"),
        (names, {"data/a.py": "", "model/a.py": ""}, "a stands twice"),
        (heavy, {"data/a.py": "def f():\n    from torch import nn\n"}, "sightline.data.a:2 imports torch"),
        (whole_systems, {"model/a.py": "from transformers import LlavaForConditionalGeneration"}, "sightline.model.a uses LlavaForConditionalGeneration"),
    ],
)
def test_guards_find_what_they_guard_against(guard, files, finding, tmp_path: Path) -> None:
    assert finding in guard(toy(tmp_path, files))


def test_guards_allow_what_is_right(tmp_path: Path) -> None:
    files = {
        "model/a.py": "import sightline.errors\nfrom sightline.samples.s import x\ndef build():\n    from sightline.model import a_modules\n",
        "model/a_modules.py": "import torch\nfrom sightline.model.a import A\n",
        "samples/s.py": "import numpy\n",
        "errors.py": "",
        "export/e.py": "from transformers import LlavaForConditionalGeneration\n",
        "cli/main.py": "from sightline import run\n",
        "run.py": "from sightline.export.e import x\n",
    }
    source = toy(tmp_path, files)
    assert [finding for guard in (upward, cycles, names, heavy, whole_systems) for finding in guard(source)] == []


@pytest.mark.parametrize("guard", [upward, cycles, names, heavy, whole_systems])
def test_the_package_keeps_its_layers(guard, repository: Path) -> None:
    assert guard(repository / "src") == []


def test_test_modules_have_names_of_their_own(repository: Path) -> None:
    count = Counter(path.name for path in (repository / "tests").rglob("test_*.py"))
    assert [name for name, times in count.items() if times > 1] == []


def test_data_is_imported_without_torch(repository: Path) -> None:
    free = [module for module in modules(repository / "src") if room(module) in TORCH_FREE]
    program = f"import sys, importlib; [importlib.import_module(name) for name in {free!r}]; print(sorted({TORCH!r} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.stdout.strip(), ended.stderr) == ("[]", "")

"""Every code block of README.md marked bash or python runs, in order, in one folder.

An HTML comment on the line before a block says what else to do: `<!-- tiny: COMMAND -->` runs a smaller command instead, `<!-- not run: REASON -->` is for blocks that install,
`<!-- run elsewhere: REASON -->` for what cannot be run here. The README has none of the last; those of docs/ are counted by test_docs.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from doc_pages import fenced

INSTALLS = ("git clone ", "cd ", "make", "pip install ", "python3 -m venv ", "source ", "python3 tools/install.py ", ".venv/bin/pip install ", "uv ")
SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block as it will be run."""

    line: int
    language: str
    code: str


def blocks(text: str) -> list[Block]:
    """The blocks to run. Raises ValueError for one that is not run and does more than install."""
    found = []
    for one in fenced(text):
        if one.language not in ("bash", "python") or one.order == "run elsewhere":
            continue
        if one.order == "not run":
            others = [words for words in one.code.splitlines() if words.strip() and not words.startswith(("#", *INSTALLS))]
            if others:
                raise ValueError(f"line {one.line}: only blocks that install may be left out, not {others[0]!r}")
        elif one.order == "tiny":
            found.append(Block(line=one.line, language="bash", code=one.text or ""))
        else:
            found.append(Block(line=one.line, language=one.language, code=one.code))
    return found


def run(block: Block, folder: Path, tools: Path) -> str:
    """Run a block in `folder` with the commands in `tools` first; its output. Raises AssertionError with the block's line when it fails."""
    program = ["bash", "-euo", "pipefail", "-c", block.code] if block.language == "bash" else [sys.executable, "-c", block.code]
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "OMP_NUM_THREADS": "2"}
    ended = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert ended.returncode == 0, f"the block at line {block.line} ended with {ended.returncode}:\n{block.code}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """`sightline` and `python` of this interpreter, installed or not."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = "import sys; from sightline.cli.main import main; sys.exit(main())"
    for name, command in {"sightline": f"'{sys.executable}' -c '{program}'", "python": f"'{sys.executable}'"}.items():
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        script.chmod(0o755)
    return folder


TOY = """
# Toy
```bash
echo one > file
sightline --version
```
<!-- tiny: echo small >> file -->
```bash
sleep 1000
```

<!-- not run: it installs -->

```bash
# why
git clone somewhere
make quickstart
```
```python
print(open("file").read().split())
```
```text
not run
```
"""


def test_blocks_run_in_order_in_one_folder(tmp_path: Path, tools: Path) -> None:
    found = blocks(TOY)
    assert [(block.line, block.language) for block in found] == [(4, "bash"), (9, "bash"), (20, "python")]
    assert [run(block, tmp_path, tools) for block in found] == ["sightline 0.1.0\n", "", "['one', 'small']\n"]


def test_a_failing_block_is_named(tmp_path: Path, tools: Path) -> None:
    for code, language in [("false\ntrue\n", "bash"), ("raise SystemExit(3)\n", "python"), ("sightline no-such-verb\n", "bash")]:
        [block] = blocks(f"\n```{language}\n{code}```\n")
        with pytest.raises(AssertionError, match="the block at line 3 ended"):
            run(block, tmp_path, tools)


def test_only_installation_may_be_left_out() -> None:
    with pytest.raises(ValueError, match="line 3: only blocks that install may be left out, not 'sightline run x'"):
        blocks("<!-- not run: slow -->\n```bash\nsightline run x\n```\n")


def test_the_readme_runs(repository: Path, tmp_path: Path, tools: Path) -> None:
    folder = tmp_path / "checkout"
    folder.mkdir()
    for path in repository.iterdir():
        if path.name not in (".git", ".venv", "runs", "dist"):
            (folder / path.name).symlink_to(path)
    page = (repository / "README.md").read_text(encoding="utf-8")
    assert [one.line for one in fenced(page) if one.order == "run elsewhere"] == [], "the README shows what runs"
    found = blocks(page)
    assert found, "the README shows nothing to run"
    for block in found:
        run(block, folder, tools)

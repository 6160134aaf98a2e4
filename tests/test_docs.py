"""The pages in docs/: their blocks run or say why not, their command lines are those of today, their recipes load, their links lead somewhere, and Chinese says what English says."""

from __future__ import annotations

import re
import sys
from collections import Counter
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import pytest

from doc_pages import ORDERS, command_lines, fenced, headings, spans, table_rows
from sightline.cli.main import VERBS, Parser
from sightline.errors import Refused
from sightline.recipe import Recipe
from sightline.recipe_source import load
from test_readme import blocks, run, tools

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import recipe_keys

__all__ = ["tools"]
YAML = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHINESE = ".zh.md"
BOTH = (
    "README", "install", "quickstart", "own-data", "recipes-guide", "several-machines", "evaluation", "soups", "serving", "troubleshooting", "extending",
)  # fmt: skip
"""Pages that must be there in English and Chinese."""
RUN = (
    "install.md",
    "quickstart.md",
    "own-data.md",
    "recipes-guide.md",
    "several-machines.md",
    "extending.md",
    "troubleshooting.md",
    "data.md",
    "bands.md",
    "export.md",
)
"""Pages whose bash and Python blocks are run, in order, in one folder."""
RUN_AS_PYTHON = ("regions.md",)
"""Pages whose Python blocks a test of their own runs."""
COUNTS = {"run": 36, "tiny": 5, "not run": 4, "run elsewhere": 50}
"""Blocks with commands on the English pages: run as they stand, run smaller, installing, and what a test cannot run here."""
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#([^)]+))?\)")


@pytest.fixture
def docs(repository: Path) -> Path:
    """The folder of the pages."""
    return repository / "docs"


def test_the_table_of_keys_is_of_today(docs: Path) -> None:
    text = (docs / "recipes.md").read_text(encoding="utf-8")
    assert recipe_keys.page(text) == text, "run: python tools/recipe_keys.py"
    assert recipe_keys.page(text.replace("| `seed` |", "| `sead` |")) == text


def test_the_table_names_every_key_with_its_meaning() -> None:
    whole = recipe_keys.drawn()
    lines = recipe_keys.tables(whole).splitlines()
    assert {"### `stages[].train.NAME.lora`", "### `data.NAME.read[]`, format `dota`", "### `model.tiler`, kind `whole`"} <= set(lines)
    assert "| `batch` | whole number from 1 | **needed** | Rows per optimizer step. |" in lines
    keys = [line for line in lines if line.startswith("| `")]
    assert len(keys) == sum(len([key for key in section["properties"] if key != "kind"]) for _, section in recipe_keys.sections(whole))
    assert [line for line in keys if line.endswith("|  |") or "anything" in line] == []


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"recipes.md has lost its marks"):
        recipe_keys.page("# Recipes\n")


def test_recipes_on_the_pages_load(docs: Path, tmp_path: Path) -> None:
    found = [text for page in sorted(docs.glob("*.md")) for text in YAML.findall(page.read_text(encoding="utf-8")) if "extends:" in text]
    assert len(found) >= 3
    for number, text in enumerate(found):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text, encoding="utf-8")
        load(file, Recipe)


def test_links_lead_somewhere(docs: Path) -> None:
    links = [(page, *link) for page in docs.glob("*.md") for link in LINK.findall(page.read_text(encoding="utf-8"))]
    assert len(links) > 5
    for page, name, heading in links:
        target = page.parent / name
        assert target.exists(), f"{page.name}: {name}"
        if not heading:
            continue
        titles = [
            re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
            for line in target.read_text(encoding="utf-8").splitlines()
            if line.startswith("#")
        ]
        assert heading in titles, f"{page.name}: {name}#{heading}"


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_the_blocks_of_a_page_run(page: str, docs: Path, tmp_path: Path, tools: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    found = blocks((docs / page).read_text(encoding="utf-8"))
    assert found
    for block in found:
        run(block, folder, tools)


def pages(docs: Path) -> dict[str, str]:
    """The English pages by name."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(docs.glob("*.md")) if not path.name.endswith(CHINESE)}


def not_run(name: str, page: str) -> list[str]:
    """Blocks with commands that no test runs and no mark excuses, and marks before nothing."""
    told = len(re.findall(rf"^<!-- (?:{'|'.join(ORDERS)}): ", page, re.MULTILINE))
    found = fenced(page)
    runs = {"bash", "python"} if name in RUN else {"python"} if name in RUN_AS_PYTHON else set()
    bare = [f"{name}:{one.line}" for one in found if one.commands and one.order is None and one.language not in runs]
    stray = [f"{name}: a mark that stands before no block"] * (told > sum(one.order is not None for one in found))
    tiny = [f"{name}:{one.line}: tiny, on a page that no test runs" for one in found if one.order == "tiny" and name not in RUN]
    return bare + stray + tiny


def test_what_is_not_run_is_found() -> None:
    page = "```bash\nsightline env\n```\n\n```text\nsightline run x\n```\n\n```text\nrows\n```\n<!-- tiny: true -->\n```bash\nx\n```\n<!-- run elsewhere: far -->\n"
    assert not_run("a.md", page) == ["a.md:2", "a.md:6", "a.md: a mark that stands before no block", "a.md:14: tiny, on a page that no test runs"]
    assert not_run("data.md", page) == ["data.md:6", "data.md: a mark that stands before no block"]


def test_every_block_is_run_or_marked(docs: Path) -> None:
    assert [finding for name, page in pages(docs).items() for finding in not_run(name, page)] == []


def test_marks_name_what_is_there(docs: Path, repository: Path) -> None:
    said = [(name, word) for name, page in pages(docs).items() for one in fenced(page) for word in re.findall(r"[\w/-]+\.(?:py|md)", one.text or "")]
    assert len(said) > 20
    assert [f"{name}: {word}" for name, word in said if not (repository / word).is_file() and not (docs / word).is_file()] == []


def test_the_marks_are_counted(docs: Path) -> None:
    counts = Counter(one.order or "run" for page in pages(docs).values() for one in fenced(page) if one.commands)
    assert counts == COUNTS, "a new block, or a new mark, is a decision: count it here and on both index pages"
    for name in ("README.md", "README.zh.md"):
        said = re.findall(r"\*\*(\d+)\*\*", (docs / name).read_text(encoding="utf-8"))
        assert [int(number) for number in said] == [sum(COUNTS.values()), *(COUNTS[order] for order in ("run", *ORDERS))], name


def misread(words: list[str]) -> str | None:
    """What the command line's own parser says against the words after `sightline`; None where it takes them."""
    words = [kebab(word) for word in words]
    if words in (["--version"], ["recipe"], ["data"]):
        return None
    name = next((name for name in (" ".join(words[:2]), " ".join(words[:1])) if name in VERBS), None)
    if name is None:
        return f"no verb {' '.join(words[:2])!r}"
    try:
        parser_of(name).parse_intermixed_args(words[len(name.split()) :])
    except Refused as refused:
        return refused.problems[0].found
    return None


def kebab(word: str) -> str:
    """The spelling of a flag that parsers know."""
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value if flag.startswith("--") else word


@lru_cache
def parser_of(verb: str) -> Parser:
    """The parser of a verb, as the command makes it."""
    module, _, function = VERBS[verb].source.partition(":")
    parser = Parser(prog=f"sightline {verb}", allow_abbrev=False)
    getattr(import_module(module), function)(parser)
    return parser


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("sightline data read SRC OUT --format dota  # why", None),
        ("cd x && .venv/bin/sightline recipe schema > file.json", None),
        ("torchrun --nnodes 2 \\\n  -m sightline run recipe.yaml --out x stages.a.steps=2", None),
        ("sightline data ask STORE OUT --with http://HOST/v1#NAME --concurrency 2", None),
        ("sightline data read SRC OUT --formats dota", "unrecognized arguments: --formats dota"),
        ("sightline data red SRC OUT", "no verb 'data red'"),
        ("sightline data read SRC", "the following arguments are required: OUT"),
    ],
)
def test_stale_command_lines_are_found(line: str, found: str | None) -> None:
    [words] = command_lines(f"```text\n{line}\n```\n")
    assert misread(words) == found


def test_command_lines_are_taken_by_the_parser(docs: Path, repository: Path) -> None:
    texts = pages(docs) | {
        path.relative_to(repository).as_posix(): path.read_text(encoding="utf-8") for path in (repository / "README.md", repository / "recipes/README.md")
    }
    lines = [(name, words) for name, page in texts.items() for words in command_lines(page)]
    assert len(lines) > 100
    assert [f"{name}: sightline {' '.join(words)}: {fault}" for name, words in lines if (fault := misread(words))] == []


def test_verbs_and_flags_of_the_prose_exist(docs: Path, repository: Path) -> None:
    for path in (*sorted(docs.glob("*.md")), repository / "README.md", repository / "recipes/README.md"):
        for words in spans(path.read_text(encoding="utf-8")):
            if words[0].startswith("--") or words[0].isupper():
                continue
            name = next((name for name in (" ".join(words[:2]), words[0]) if name in VERBS), None)
            assert name or words[0] in {verb.split()[0] for verb in VERBS}, f"{path.name}: sightline {' '.join(words)}"
            flags = {kebab(word).partition("=")[0].rstrip(",.;:") for word in words if word.startswith("--")}
            known = set(parser_of(name)._option_string_actions) if name else set()
            assert flags <= known, f"{path.name}: sightline {' '.join(words)}"


def differences(english: str, chinese: str) -> list[str]:
    """In what a page and its translation differ that is no matter of words."""
    found = []
    ours, theirs = ([(one.order, one.text, one.language, one.code) for one in fenced(page)] for page in (english, chinese))
    if ours != theirs:
        number = next((number for number, (one, other) in enumerate(zip(ours, theirs)) if one != other), min(len(ours), len(theirs)))
        found.append(f"block {number + 1} of {len(ours)} and {len(theirs)}")
    for what, count in (("headings", headings), ("lines of tables", table_rows)):
        if count(english) != count(chinese):
            found.append(f"{what}: {count(english)} and {count(chinese)}")
    return found


def test_differences_of_a_pair_are_found() -> None:
    page = "# A\n\n## B\n\n| a |\n\n<!-- tiny: x -->\n```bash\n# c\nx\n```\n"
    assert differences(page, page.replace("A", "甲")) == []
    assert differences(page, page.replace("tiny: x", "tiny: y")) == ["block 1 of 1 and 1"]
    assert differences(page, page.replace("## B", "B").replace("| a |", "")) == ["headings: [1, 2] and [1]", "lines of tables: 1 and 0"]
    assert differences(page, page + "\n```text\n```\n") == ["block 2 of 1 and 2"]


def test_pages_that_must_be_in_both_languages_are(docs: Path) -> None:
    chinese = {path.name.removesuffix(CHINESE) for path in docs.glob(f"*{CHINESE}")}
    assert set(BOTH) <= chinese, "these pages are wanted in Chinese"
    assert all((docs / f"{name}.md").exists() for name in chinese), "a translation of nothing"


def test_the_two_languages_say_the_same(docs: Path) -> None:
    for path in sorted(docs.glob(f"*{CHINESE}")):
        name = path.name.removesuffix(CHINESE)
        english, chinese = ((docs / f"{name}{end}").read_text(encoding="utf-8") for end in (".md", CHINESE))
        assert differences(english, chinese) == [], name
        assert f"]({name}{CHINESE})" in english and f"]({name}.md)" in chinese, f"{name}: each leads to the other"
        others = {target for target, _ in LINK.findall(chinese)} - {f"{name}.md"}
        assert [target for target in sorted(others) if (docs / f"{target.removesuffix('.md')}{CHINESE}").exists()] == [], (
            f"{path.name}: leads to an English page"
        )


def test_the_index_names_every_page(docs: Path) -> None:
    for index, end in (("README.md", ".md"), ("README.zh.md", CHINESE)):
        named = {target for target, _ in LINK.findall((docs / index).read_text(encoding="utf-8"))}
        wanted = {name if not (docs / f"{name.removesuffix('.md')}{end}").exists() else f"{name.removesuffix('.md')}{end}" for name in pages(docs)}
        assert wanted - {index} <= named, index


def test_the_page_on_extending_names_every_family(docs: Path, repository: Path) -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (repository / "src").rglob("*.py"))
    rows = re.findall(r"^\| `(\w+)` \| .* \| `([\w/.]+)` \|$", (docs / "extending.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(family for family, _ in rows) == sorted(re.findall(r'= Family\("(\w+)"', source))
    assert [file for _, file in rows if not (repository / "src/sightline" / file).is_file()] == []

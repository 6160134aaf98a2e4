"""The page on regions: its Python runs, its table is what codecs write, its commands are those of the command line."""

from __future__ import annotations

import re
import shlex
from argparse import ArgumentParser
from pathlib import Path
from typing import Any, cast

import pytest

from sightline.cli.chat_verb import chat
from sightline.cli.eval_verb import evaluate
from sightline.samples.codec_table import CODEC, PRESETS
from sightline.samples.codecs import Codec, text_of
from sightline.samples.frames import frame_of
from sightline.samples.sample import Box, Point, Polygon, Region, Regions, RotatedBox


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    """Its text."""
    return (repository / "docs" / "regions.md").read_text(encoding="utf-8")


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_its_python_runs(page: str) -> None:
    known: dict[str, Any] = {}
    for block in blocks(page, "python"):
        exec(block, known)


def test_its_table_is_what_codecs_write(page: str) -> None:
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| `(.*?)` \|", page, re.MULTILINE))
    assert set(rows) == {*PRESETS, *CODEC.table()} - {"xyhwt"}
    turned, upright, point = RotatedBox(cx=400, cy=300, w=200, h=100, theta=30), Box(x0=300, y0=250, x1=500, y1=350), Point(x=400, y=300)
    outline = Polygon(points=((300, 250), (500, 250), (500, 350), (300, 350)))
    for name, text in rows.items():
        codec = cast(Codec, CODEC.parse({"frame": "source", "kind": name, **PRESETS.get(name, {})}))
        shape = next(one for one in (turned, upright, point, outline) if isinstance(one, codec.holds))
        assert text_of(codec.render(Regions(regions=(Region(shape=shape),)), frame_of(codec.frame, 800, 600))) == text.replace("\\|", "|")


def test_its_commands_are_known(page: str) -> None:
    commands = [shlex.split(line) for block in blocks(page, "bash") for line in block.splitlines()]
    assert [command[:2] for command in commands] == [["sightline", "chat"], ["sightline", "eval"]]
    for command, verb in zip(commands, (chat, evaluate), strict=True):
        parser = ArgumentParser()
        verb(parser)
        assert parser.parse_args(command[2:]).grammar

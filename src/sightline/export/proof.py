"""The proof of an export: transformers alone loads the folder, in a process that cannot import this package, and is asked the golden requests again.

MODEL/golden --ours--> ids, logits, tokens        OUT --stock_run.py--> ids, logits, tokens        both --compared--> Proof, or Refused
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sightline.errors import Problem, Refused
from sightline.evaluate.golden import answered, golden_rows
from sightline.export import stock_run
from sightline.export.exporters import Proof
from sightline.model import directory
from sightline.model.batch import Batch
from sightline.model.native.native_format import NativeFormat
from sightline.model.pieces import Control, Slots, StreamName
from sightline.model.processor import Processor
from sightline.model.region_words import turn_text
from sightline.model.vlm import Model
from sightline.samples.sample import Film, Item, Sample, Show, Text, Turn

CLOSE = 1e-5
"""Largest |difference| of logits, as a share of the largest |logit|; of the components of unit vectors, as it is. Both sides compute in float32."""
_LOADER = "import runpy, sys; sys.modules['sightline'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
"""Runs a script by its path where this package cannot be imported."""
_TOLD = 2000
"""Characters of what the other process said last."""


@dataclass(frozen=True, kw_only=True)
class Stock:
    """Who opens the folder."""

    target: str
    auto: str
    """A class of transformers with `from_pretrained`."""
    format: NativeFormat
    processor: bool
    """Whether the stock processor is made without torchvision."""
    adapter: Path | None = None
    """A folder of adapters that peft puts in."""
    close: float = CLOSE
    """Largest |difference| that is taken for rounding, as CLOSE has it."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A golden request, and what our model says."""

    request: dict[str, Any]
    """As the other process takes it."""
    ids: list[int]
    """Of the prompt, entries of pictures by the picture's token; of the text, where vectors are compared."""
    tokens: list[int]
    text: str
    found: dict[str, Tensor]
    """logits (tokens, V); or picture and text (E,)."""


def prove_writer(model_dir: Path, out: Path, stock: Stock) -> Proof:
    """Prompts by their ids, logits of the golden answers, and the answers themselves. Raises Refused (export/...) with all that differs."""
    model, processor, _ = directory.load(model_dir)
    image = _picture_id(out, stock, processor)
    with TemporaryDirectory() as folder:
        asked = [ours(model, processor, row, sample, image, stock, Path(folder) / str(number)) for number, row, sample in golden_of(model_dir, "write")]
        del model  # the other process needs the memory
        job = {"image": image, "placeholder": stock.format.placeholder(processor.config)}
        said, theirs = run_stock(Path(folder), out, stock, "write", asked, job)
    problems = [*_key_problems(said, out), *_ids_apart(asked, said, processor, out)]
    difference = 0.0
    if not problems:
        difference, largest = _apart(asked, theirs, "logits")
        problems += _too_far(difference, difference / largest, "logits", stock, out)
    golden = [(one.text, _answer(processor, other["text"])) for one, other in zip(asked, said["requests"], strict=True)]
    problems += [_answers_differ(number, pair, out) for number, pair in enumerate(golden) if pair[0] != pair[1]]
    problems += [
        _answers_differ(number, (str(one.tokens), str(other["tokens"])), out)
        for number, (one, other) in enumerate(zip(asked, said["requests"], strict=True))
        if one.tokens != other["tokens"] and golden[number][0] == golden[number][1]
    ]
    if problems:
        raise Refused(problems)
    return Proof(target=stock.target, difference=difference, golden=tuple(golden), through=said["through"], software=said["software"])


def prove_towers(model_dir: Path, out: Path, stock: Stock) -> Proof:
    """Texts by their ids, and the unit vectors of golden pairs. Raises Refused (export/...) with all that differs."""
    _, processor, _ = directory.load(model_dir)
    part = processor.config.side_part
    padding = {"padding": "max_length", "max_length": part.max_tokens} if getattr(part, "padded", False) else {"max_length": part.max_tokens}
    with TemporaryDirectory() as folder:
        asked = []
        for number, row, sample in golden_of(model_dir, "embed"):
            request = {"pictures": _pictures(sample, Path(folder) / str(number)), "text": row["text"], "padding": padding}
            ids = processor.side_texts([row["text"]], [0]).ids[0].tolist()
            found = {"picture": torch.tensor(row["picture_vector"]), "text": torch.tensor(row["text_vector"])}
            asked.append(Asked(request=request, ids=ids, tokens=[], text=row["text"], found=found))
        said, theirs = run_stock(Path(folder), out, stock, "embed", asked, {})
    problems = [*_key_problems(said, out), *_ids_apart(asked, said, processor, out)]
    difference = max(_apart(asked, theirs, name)[0] for name in ("picture", "text"))
    problems += _too_far(difference, difference, "components of unit vectors", stock, out)
    if problems:
        raise Refused(problems)
    golden = tuple((one.text, one.text) for one in asked)
    return Proof(target=stock.target, difference=difference, golden=golden, through=said["through"], software=said["software"])


def golden_of(model_dir: Path, ask: str) -> Iterator[tuple[int, dict[str, Any], Sample]]:
    """Golden requests of one sort. Refused where there are none: nothing could be proved."""
    file = model_dir / "golden" / "requests.jsonl"
    found = [(row, sample) for row, sample in golden_rows(model_dir) if row["ask"] == ask] if file.is_file() else []
    if not found:
        allowed, fix = "a model directory with golden requests", "train the stage again, or read the checkpoint again"
        raise Refused(Problem(code="export/no-golden", place=str(file), found=f"no golden request that asks to {ask}", allowed=allowed, fix=fix))
    for number, (row, sample) in enumerate(found):
        yield number, row, sample


# ours


@torch.no_grad()
def ours(model: Model, processor: Processor, row: dict[str, Any], sample: Sample, image: int, stock: Stock, folder: Path) -> Asked:
    """What our model says to a golden request, in one forward; its pictures are written into `folder`."""
    prompt = processor.encode(sample, answer=False)
    batch = processor.collate([[answered(prompt, row["tokens"])]])
    logits = model.language_model.logits(model.rows(batch)).float()
    before = processor.collate([[prompt]])
    request = {
        "pictures": _pictures(sample, folder),
        "messages": messages(processor, sample),
        "expansions": expansions(processor, sample, stock.format.picture_token(processor.config)),
        "tokens": len(row["tokens"]),
    }
    return Asked(
        request=request, ids=prompt_ids(before, processor.config.fusion.prompt, image), tokens=row["tokens"], text=row["text"], found={"logits": logits}
    )


def prompt_ids(batch: Batch, where: StreamName, image: int) -> list[int]:
    """Ids of a prompt as published classes take them, from the stream that holds it: entries of pictures by the picture's token."""
    stream = batch.memory if where == "memory" else batch.decoder
    assert stream is not None
    ids = stream.ids.clone()
    ids.view(-1)[stream.slots] = image
    return ids[0].tolist()


def messages(processor: Processor, sample: Sample) -> list[dict[str, Any]]:
    """The turns of a prompt as a chat: texts, and numbers of the pictures in the order in which they are shown. Raises Refused for films."""
    tilings = [processor.measure(picture.width, picture.height, len(sample.pictures)).tiling for picture in sample.pictures]
    seen = 0
    found: list[dict[str, Any]] = []
    for turn in sample.turns:
        content: list[str | int] = []
        for item in turn.items:
            if isinstance(item, Film):
                allowed, fix = "golden requests with pictures", "export a model of a stage whose first rows show no films"
                raise Refused(Problem(code="export/film", place=sample.id, found="a film in a golden request", allowed=allowed, fix=fix))
            if isinstance(item, Show):
                content.append(seen)
                seen += 1
            else:
                content.append(_said(processor, turn.role, item, tilings))
        found.append({"role": turn.role, "content": content})
    return found


def _said(processor: Processor, role: Any, item: Item, tilings: Sequence[Any]) -> str:
    return item.text if isinstance(item, Text) else turn_text(processor.config.codec, Turn(role=role, items=(item,)), tilings)


def expansions(processor: Processor, sample: Sample, token: str) -> list[str]:
    """For each picture that is shown, what the prompt holds of it as text: tokens of the layout, and the picture's token for each entry."""
    layout, fusion = processor.config.layout, processor.config.fusion
    found = []
    for item in (item for turn in sample.turns for item in turn.items if isinstance(item, Show)):
        picture = sample.pictures[item.picture]
        measure = processor.measure(picture.width, picture.height, len(sample.pictures))
        pieces = [piece for piece in layout.pieces(item.picture, measure.tiling, measure.grids, fusion.route) if piece.stream == fusion.prompt]
        found.append("".join(token * len(one.entries) if isinstance(one, Slots) else one.token if isinstance(one, Control) else one.text for one in pieces))
    return found


def _pictures(sample: Sample, folder: Path) -> list[str]:
    """Pictures as files, in the order in which turns show them; all of them where there are no turns."""
    folder.mkdir()
    order = [item.picture for turn in sample.turns for item in turn.items if isinstance(item, Show)] if sample.turns else range(len(sample.pictures))
    files = []
    for number, picture in enumerate(order):
        data = sample.pictures[picture].data
        assert isinstance(data, bytes), "golden pictures are held"
        files.append(str(folder / f"{number}.bin"))
        Path(files[-1]).write_bytes(data)
    return files


def _picture_id(out: Path, stock: Stock, processor: Processor) -> int:
    """The id of the picture's token in the tokenizer that was written."""
    from tokenizers import Tokenizer

    token = stock.format.picture_token(processor.config)
    found = Tokenizer.from_file(str(out / "tokenizer.json")).token_to_id(token)
    assert found is not None, f"{token} was written with the tokenizer"
    return found


def _answer(processor: Processor, text: str) -> str:
    """An answer without what the chat format puts around it, as ours are told."""
    found = text.removeprefix(processor.chat.assistant.prefix)
    return found.partition(processor.chat.stop)[0] if processor.chat.stop else found


# theirs


def run_stock(folder: Path, out: Path, stock: Stock, ask: str, asked: Sequence[Asked], job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the other process says: as JSON, and tensors by NUMBER.NAME. Raises Refused (export/stock) with its last words where it fails."""
    requests = [one.request for one in asked]
    whole = {"model": str(out), "auto": stock.auto, "ask": ask, "processor": stock.processor, "adapter": str(stock.adapter or ""), "requests": requests}
    (folder / "job.json").write_text(json.dumps(whole | job), encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-I", "-c", _LOADER, stock_run.__file__, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    if ended.returncode:
        raise Refused(
            Problem(
                code="export/stock",
                place=f"{stock.auto}.from_pretrained",
                found=ended.stderr[-_TOLD:],
                allowed="a folder that transformers opens and answers with",
                fix="report this, with the recipe",
            )
        )
    return json.loads((folder / "said.json").read_text(encoding="utf-8")), load_file(folder / "said.safetensors")


# compared


def _key_problems(said: dict[str, Any], out: Path) -> list[Problem]:
    told = "; ".join(f"{name.replace('_', ' ')}: {', '.join(names[:20])}" for name, names in said["keys"].items() if names)
    allowed, fix = "every tensor of the class, and no other", "report this, with the recipe"
    return [Problem(code="export/keys", place=str(out), found=told, allowed=allowed, fix=fix)] if told else []


def _ids_apart(asked: Sequence[Asked], said: dict[str, Any], processor: Processor, out: Path) -> list[Problem]:
    """Prompts that became other tokens, with the first place where they part."""
    problems = []
    for number, (one, other) in enumerate(zip(asked, said["requests"], strict=True)):
        if one.ids == other["ids"]:
            continue
        at = next((place for place, pair in enumerate(zip(one.ids, other["ids"])) if pair[0] != pair[1]), min(len(one.ids), len(other["ids"])))
        here, there = (processor.tokenizer.decode(ids[max(0, at - 4) : at + 8], controls=True) for ids in (one.ids, other["ids"]))
        problems.append(
            Problem(
                code="export/prompt-differs",
                place=f"{out}, golden request {number}, token {at}",
                found=f"{len(other['ids'])} tokens, there {there!r}",
                allowed=f"{len(one.ids)} tokens, there {here!r}: the prompt that the model was trained with",
                fix="choose a target whose processor makes this prompt",
            )
        )
    return problems


def _apart(asked: Sequence[Asked], theirs: dict[str, Tensor], name: str) -> tuple[float, float]:
    """Largest |difference| over all requests, and largest |number| of ours. Columns of tokens that only the export has are not compared."""
    difference = largest = 0.0
    for number, one in enumerate(asked):
        own, other = one.found[name], theirs[f"{number}.{name}"]
        shape = tuple(map(min, own.shape, other.shape))
        own, other = (tensor[tuple(map(slice, shape))] for tensor in (own, other))
        difference, largest = max(difference, float((own - other).abs().max())), max(largest, float(own.abs().max()))
    return difference, largest


def _too_far(difference: float, share: float, what: str, stock: Stock, out: Path) -> list[Problem]:
    if share <= stock.close:
        return []
    found = f"{what} differ by {difference:.3g}" + (f", {share:.3g} of the largest" if share != difference else "")
    fix = "report this, with the recipe: what was written is not the model"
    return [Problem(code="export/differs", place=str(out), found=found, allowed=f"at most {stock.close:g}", fix=fix)]


def _answers_differ(number: int, pair: tuple[str, str], out: Path) -> Problem:
    allowed, fix = f"{pair[0]!r}: what the model said when it was saved", "report this, with the recipe"
    return Problem(code="export/golden-differs", place=f"{out}, golden request {number}", found=repr(pair[1]), allowed=allowed, fix=fix)

"""Probes: a few fixed rows of a stage's data that the model answers while it trains, so that people see what it has learnt. The training is the same with and without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.fsdp import FSDPModule

from sightline.data.mixture import Mixture
from sightline.errors import Problem, Refused
from sightline.model.lines import conversations
from sightline.model.processor import Processor
from sightline.model.region_words import turn_text
from sightline.model.vlm import Model
from sightline.samples.exchange import Answer, Decoding, Request
from sightline.samples.pictures import ending
from sightline.samples.sample import Picture, Sample, Turn
from sightline.train.stage import ProbePlan

_DRAWS = 3
"""Marks the random stream of probe rows; visits, captions, noise and negatives have others."""


@dataclass(frozen=True, kw_only=True)
class ProbeRow:
    """A row that is asked about."""

    row: str
    source: str
    prompt: Sample
    """Up to the user's last turn of its first conversation."""
    question: str
    wanted: str
    root: Path
    """Folder of its store."""


def probe_rows(mixture: Mixture, processor: Processor, count: int, seed: int) -> list[ProbeRow]:
    """`count` rows of a mixture, a pure function of the seed: one of each share in turn, as long as they last. Refused where no row holds a question and its answer."""
    rng = np.random.default_rng([seed, _DRAWS])
    drawn = [(share.store, iter(rng.permutation(np.asarray(share.store.kept)))) for share in mixture.shares]
    found: list[ProbeRow] = []
    while drawn and len(found) < count:
        store, rows = drawn.pop(0)
        one = next((made for row in rows if (made := _probe_row(store[int(row)], store.path, processor)) is not None), None)
        if one is not None:
            found.append(one)
            drawn.append((store, rows))
    if not found:
        place = f"data {', '.join(share.name for share in mixture.shares)}"
        raise Refused(
            Problem(code="train/nothing-to-probe", place=place, found="no row with a question and its answer", allowed="at least one", fix="probe: null")
        )
    return found


def _probe_row(sample: Sample, root: Path, processor: Processor) -> ProbeRow | None:
    turns = conversations(sample)[0]
    if len(turns) < 2 or turns[-1].role != "assistant":
        return None
    prompt = replace(sample, turns=turns[:-1], annotations=(), attributes={})
    tilings = [processor.measure(picture.width, picture.height, len(sample.pictures)).tiling for picture in sample.pictures] if processor.config.codec else []

    def said(turn: Turn) -> str:
        return turn_text(processor.config.codec, turn, tilings)

    return ProbeRow(row=sample.id, source=sample.origin.source, prompt=prompt, question=said(turns[-2]), wanted=said(turns[-1]), root=root)


class Probes:
    """Asks a model in training about fixed rows, greedily.

    `ask` answers requests, in any order, with the model as it is; `repetition` is that of one text, 0..1.
    """

    def __init__(
        self,
        stage: str,
        plan: ProbePlan,
        model: Model,
        rows: Sequence[ProbeRow],
        *,
        ask: Callable[[Sequence[Request]], Sequence[Answer]],
        repetition: Callable[[str], float],
    ) -> None:
        self.stage, self.plan, self.model, self.rows, self.ask, self.repetition = stage, plan, model, list(rows), ask, repetition
        self._files: list[list[str]] = [[] for _ in self.rows]

    def write_pictures(self, folder: Path, run: Path, shown: Callable[[Picture, Path], bytes]) -> None:
        """Write the pictures of all rows into `folder`, which lies in `run`, for events to name them: every process the same bytes. `shown`: bytes that a browser can show."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(self.rows):
            files = []
            for picture in row.prompt.pictures:
                data = shown(picture, row.root)
                path = folder / f"{picture.hash[:16]}{ending(data)}"
                path.write_bytes(data)
                files.append(path.relative_to(run).as_posix())
            self._files[number] = files

    def due(self, step: int, every: int, last: bool) -> bool:
        """Whether they are asked with the record of this step; `every`: steps between records."""
        before = (step - 1) // every * every
        return step == 0 or last or step // self.plan.steps > before // self.plan.steps

    def event(self, step: int) -> dict[str, Any]:
        """Ask, and what is recorded of it."""
        decoding = Decoding(max_tokens=self.plan.max_tokens)
        requests = [Request(sample=replace(row.prompt, id=str(number)), decoding=decoding) for number, row in enumerate(self.rows)]
        with undisturbed(self.model):
            told = {answer.sample: answer.text for answer in self.ask(requests)}
        answers = [
            {"row": row.row, "source": row.source, "pictures": files, "question": row.question, "wanted": row.wanted, "answer": told[str(number)]}
            for number, (row, files) in enumerate(zip(self.rows, self._files))
        ]
        repeated = sum(self.repetition(text) for text in told.values()) / len(told)
        return {"event": "probe", "stage": self.stage, "step": step, "answers": answers, "repetition": repeated}


@contextmanager
def undisturbed(model: Model) -> Iterator[None]:
    """Whatever is asked of the model inside, its modules are in the modes in which they were afterwards, and random generators go on where they stood. Shards that lie in no block are gathered."""
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if isinstance(model, FSDPModule):
            model.unshard()
        try:
            yield
        finally:
            if isinstance(model, FSDPModule):
                model.reshard()
            for module, mode in modes:
                module.training = mode

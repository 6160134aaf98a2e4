"""Picture towers, and connectors that read one tower, as ONNX graphs of one crop each. Letters: C channels or language-model width, N tokens of a crop.

`NAME.onnx` of each encoder: `crop` (1, 3, height, width) uint8, as a tiler cuts it -> `tokens` (1, N, C). Mean and deviation are part of the graph. Where several towers are
put together before the connector, it is a graph of its own: `connector.onnx`, `tokens` (1, N, C) -> `entries` (1, N', D). What a graph takes and gives stands in `onnx.json`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sightline.errors import Problem, Refused
from sightline.export.exporters import Proof
from sightline.kinds import Config
from sightline.lineage import artifact, write_json
from sightline.model.assembly import ModelConfig
from sightline.model.tiling import Grid
from sightline.samples.bands import COLOURS

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
RECORD = "onnx.json"
_PROBED = (48, 96, 211, 500, 1024)
"""Sides in px of the pictures whose crops say which sizes a tower sees."""
_PICTURES = 3
"""Crops of noise that a proof compares, for each graph."""


class OnnxTowerExporter:
    """See the module."""

    target = "onnx"

    def check(self, config: Config) -> list[Problem]:
        """Encoders whose crops have several sizes, connectors that read more than tokens, and packages that are absent."""
        assert isinstance(config, ModelConfig)
        found = [] if config.encoders else [_problem("encoders", "no encoder", "at least one picture tower")]
        for encoder in config.encoders:
            sizes = crop_sizes(config, encoder)
            if len(sizes) != 1:
                said = f"crops of {', '.join(f'{w}x{h}' for w, h in sizes[:4])}{' ..' if len(sizes) > 4 else ''} px"
                found.append(_problem(encoder.path, said, "crops of one size: a graph has the positions of one"))
            if encoder.bands != COLOURS:
                found.append(_problem(f"{encoder.path}.bands", ", ".join(encoder.bands), ", ".join(COLOURS)))
        for name, connector in _connectors(config):
            if connector.reads_text or getattr(connector, "padding", "none") != "none":
                reads = "the question" if connector.reads_text else "which tokens show padding"
                found.append(_problem(name, f"a connector that also reads {reads}", "a connector that reads tokens alone"))
        absent = [name for name in PACKAGES if find_spec(name) is None]
        if absent:
            found.append(
                Problem(
                    code="export/no-onnx",
                    place="onnx",
                    found=f"{', '.join(absent)} not installed",
                    allowed="the extra `onnx`",
                    fix="pip install 'sightline[onnx]'",
                )
            )
        return found

    def write(self, model_dir: Path, out: Path) -> None:
        """Write the graphs. Raises Refused with all of `check`."""
        import torch

        from sightline.model import directory

        model, _, _ = directory.load(model_dir)
        if problems := self.check(model.config):
            raise Refused(problems)
        with artifact(out) as folder:
            record = []
            for name, graph, example in _graphs(model):
                given, made = ("crop", "tokens") if name != "connector" else ("tokens", "entries")
                with torch.no_grad():
                    shape = list(graph(example).shape)
                    _traced(graph, example, folder / f"{name}.onnx", given, made)
                record.append(
                    {
                        "file": f"{name}.onnx",
                        "input": given,
                        "takes": list(example.shape),
                        "dtype": str(example.dtype).removeprefix("torch."),
                        "output": made,
                        "gives": shape,
                    }
                )
            write_json(folder / RECORD, record)

    def prove(self, model_dir: Path, out: Path) -> Proof:
        """Largest |difference| of features of noise between each graph, run by onnxruntime, and ours. Towers answer nothing, so that there are no golden answers."""
        import torch

        from sightline.model import directory

        runtime: Any = import_module("onnxruntime")
        model, _, _ = directory.load(model_dir)
        worst = 0.0
        for name, graph, example in _graphs(model):
            session = runtime.InferenceSession(str(out / f"{name}.onnx"), providers=["CPUExecutionProvider"])
            for seed in range(_PICTURES):
                noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(seed))
                given = noise if name == "connector" else (noise * 64 + 128).clamp(0, 255).to(torch.uint8)
                with torch.no_grad():
                    ours = graph(given)
                [theirs] = session.run(None, {session.get_inputs()[0].name: given.numpy()})
                worst = max(worst, (ours - torch.from_numpy(theirs)).abs().max().item())
        software = {name: version(name) for name in ("torch", *PACKAGES)}
        return Proof(target=self.target, difference=worst, golden=(), through="our pixel tensors", software=software)


def _problem(place: str, found: str, allowed: str) -> Problem:
    return Problem(code="export/onnx", place=f"model.{place}", found=found, allowed=allowed, fix="choose another target")


def _connectors(config: ModelConfig) -> list[tuple[str, Any]]:
    if config.connector is None:
        return []
    each = getattr(config.connector, "connectors", None)
    return [("connector", config.connector)] if each is None else [(f"connector.connectors.{name}", own) for name, own in each.items()]


def crop_sizes(config: ModelConfig, encoder: Any) -> list[tuple[int, int]]:
    """Sizes (width, height) of the crops that an encoder sees, of pictures of many shapes."""
    assert config.tiler is not None
    tilings = [config.tiler.tile(width, height) for width in _PROBED for height in _PROBED]
    return sorted({crop.window[2:] for tiling in tilings for crop in tiling.crops if crop.role in encoder.sees})


def _graphs(model: Any) -> Iterator[tuple[str, Any, Any]]:
    """Name, module and an example of its input, of each graph of a model."""
    import torch

    from sightline.export.onnx_graphs import ConnectorGraph, TowerGraph

    config: ModelConfig = model.config
    apart = len(config.encoders) > 1 and config.combined.place == "before"
    grids: list[Grid] = []
    for encoder in config.encoders:
        [(width, height)] = crop_sizes(config, encoder)
        own = getattr(model.connector, "connectors", {}).get(encoder.name) if hasattr(model.connector, "connectors") else model.connector
        grids.append(encoder.grid(width, height))
        yield (
            encoder.name,
            TowerGraph(model.encoders[encoder.name], encoder.read(), grids[-1], None if apart else own).eval(),
            torch.zeros(1, len(COLOURS), height, width, dtype=torch.uint8),
        )
    if apart and model.connector is not None:
        channels = config.combined.channels({encoder.name: encoder.channels() for encoder in config.encoders})
        yield "connector", ConnectorGraph(model.connector, grids[0]).eval(), torch.zeros(1, grids[0].count, channels)


def _traced(graph: Any, example: Any, path: Path, given: str, made: str) -> None:
    """Trace a graph into a file. The exporter's account of its steps goes nowhere."""
    import torch

    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        program: Any = torch.onnx.export(graph, (example,), dynamo=True, input_names=[given], output_names=[made], verbose=False)
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    program.save(str(path))

"""`verify`: whether a model directory or a published checkpoint is whole, fits its config, and is what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sightline.errors import Problem, Refused
from sightline.evaluate.golden import check_golden
from sightline.lineage import write_json
from sightline.model import directory, hub_layout
from sightline.model.native import native_checks, native_directory
from sightline.model.native.native_format import spoken
from sightline.model.native.native_table import format_of
from sightline.model.native.native_weights import native_config
from sightline.model.native.published_folder import CONFIG, read_published
from sightline.model.processor import Processor
from sightline.model.vlm import Model

Loaded = tuple[Model, Processor, str]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question and its answer."""

    name: str
    state: str
    """ok, warnings, findings, or skipped."""
    said: str


@dataclass(kw_only=True)
class Verification:
    """All checks of a folder, and everything that they found."""

    folder: Path
    format: str
    checks: list[Check] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing but warnings."""
        return all(problem.severity == "warn" for problem in self.problems)

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "folder": str(self.folder),
            "format": self.format,
            "ok": self.ok,
            "checks": [vars(check) for check in self.checks],
            "problems": [problem.record() for problem in self.problems],
        }

    def check(self, name: str, work: Callable[[], tuple[str, list[Problem]]]) -> None:
        """Answer one question; what it refuses is among the findings."""
        try:
            said, problems = work()
        except Refused as refused:
            said, problems = "", refused.problems
        self.problems += problems
        state = "ok" if not problems else "findings" if any(problem.severity == "refuse" for problem in problems) else "warnings"
        self.checks.append(Check(name=name, state=state, said=", ".join(dict.fromkeys(problem.code for problem in problems)) or said))

    def skip(self, name: str, why: str) -> None:
        """A question that cannot be asked."""
        self.checks.append(Check(name=name, state="skipped", said=why))


def verify(folder: Path) -> Verification:
    """Checks of a model directory, of a run's last one, or of a published folder. Raises Refused where the folder is none of these."""
    head = hub_layout.read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if not head or head.get("model_type") == "sightline":
        return _verify_own(directory.model_folder(folder))
    return _verify_published(folder)


def record_hashes(folder: Path) -> int:
    """Write sightline.hashes.json beside the files of a folder, for later checks; returns how many it names."""
    found = native_checks.write_hashes(folder)
    write_json(folder / native_checks.HASHES, found)
    return len(found)


def _verify_own(folder: Path) -> Verification:
    result = Verification(folder=folder, format="sightline")
    loaded: list[Loaded] = []

    def weights() -> tuple[str, list[Problem]]:
        loaded.append(directory.load(folder))
        model, _, weights_id = loaded[0]
        numbers = sum(tensor.numel() for part in directory.part_tensors(model).values() for tensor in part.values())
        return f"{numbers:,} numbers in {len(model.parts())} parts, id {weights_id[:12]}", []

    result.check("weights", weights)
    _check_hashes(result, folder)
    if loaded:
        _check_golden(result, folder, loaded[0])
    else:
        result.skip("golden", "the model was not loaded")
    return result


def _verify_published(folder: Path) -> Verification:
    published = read_published(folder)
    found = format_of(published.said, str(folder / CONFIG))
    result = Verification(folder=folder, format=found.name)
    configs = []

    def settings() -> tuple[str, list[Problem]]:
        configs.append(native_config(published, found))
        return ", ".join(_parts(configs[0])), list(spoken(published, found.chat(published)).problems)

    result.check("settings", settings)
    result.check("code", lambda: ("no code, no pickles", native_checks.code_problems(published)))
    _check_hashes(result, folder)
    if not configs:
        for name in ("weights", "tokens", "golden"):
            result.skip(name, "the settings were not understood")
        return result
    [config] = configs

    def weights() -> tuple[str, list[Problem]]:
        held = native_checks.weigh(folder, config, found)
        return f"{held.tensors} tensors, {held.numbers:,} numbers, {', '.join(held.dtypes)}", list(held.problems)

    result.check("weights", weights)
    result.check("tokens", lambda: ("tokenizer fits the embeddings and the config", native_checks.token_problems(published, config, found)))
    if (folder / "golden").is_dir() and result.ok:
        _check_golden(result, folder, native_directory.load_published(folder))
    else:
        result.skip("golden", "there is no golden/" if result.ok else "the model would not load")
    return result


def _parts(config: Any) -> list[str]:
    """Kinds of its parts."""
    named = [*config.encoders, config.tiler, config.connector, config.layout, config.fusion, config.language_model, config.text_encoder]
    return [str(part.kind) for part in named if part is not None]


def _check_hashes(result: Verification, folder: Path) -> None:
    known, problems = native_checks.hash_problems(folder)
    if known:
        result.check("hashes", lambda: (f"{known} files", problems))
    else:
        result.skip("hashes", f"no {native_checks.HASHES}, and no names that are hashes")


def _check_golden(result: Verification, folder: Path, loaded: Loaded) -> None:
    if not (folder / "golden" / "requests.jsonl").is_file():
        result.skip("golden", "there is no golden/requests.jsonl")
        return
    model, processor, _ = loaded
    result.check("golden", lambda: (f"mean |difference| {check_golden(folder, model, processor):.1e}", []))

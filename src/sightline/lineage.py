"""Artifacts that are whole or absent, content hashes, and the record of what each was made from."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sightline import __version__


def sha256_bytes(data: bytes) -> str:
    """Hex digest of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex digest of a JSON value, independent of key order."""
    return sha256_bytes(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode())


def sha256_tree(root: Path) -> str:
    """Digest over the sorted relative paths and contents of all files under `root`, or of one file."""
    if root.is_file():
        return sha256_file(root)
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + bytes.fromhex(sha256_file(path)))
    return digest.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def artifact(path: Path) -> Iterator[Path]:
    """A directory that appears at `path` whole, or not at all.

    The body writes into a temporary sibling `.tmp-*`; on success its files are synced and it is renamed over `path`. Leftovers of killed runs are removed by `sweep`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".tmp-{path.name}-{uuid.uuid4().hex[:8]}"
    temporary.mkdir()
    try:
        yield temporary
        with ThreadPoolExecutor(16) as pool:  # the disk joins syncs that wait together: thousands of files in a fraction of the time
            list(pool.map(_sync, (file for file in temporary.rglob("*") if file.is_file())))
        if path.exists():
            old = path.parent / f".tmp-old-{path.name}-{uuid.uuid4().hex[:8]}"
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            temporary.rename(path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write one file atomically (temporary sibling, sync, rename)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".tmp-{path.name}-{uuid.uuid4().hex[:8]}"
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write one JSON file atomically, readable by people."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def sweep(root: Path) -> list[Path]:
    """Remove what killed writers left behind (`.tmp-*`) under `root`; says what was removed."""
    removed = [path for path in root.rglob(".tmp-*") if path.exists()] if root.exists() else []
    for path in removed:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return removed


def software() -> dict[str, str]:
    """Versions that a result may depend on, without importing the packages."""
    found = {"sightline": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "tokenizers", "peft", "numpy", "pillow", "pyarrow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What an artifact was made from. `id` = sha256(fingerprint, content): known only after the work."""

    id: str
    kind: str
    """store, model, answers, run..."""
    config: str
    """Hash of the part of the recipe that made it."""
    inputs: list[dict[str, str]] = field(default_factory=list)
    """`{id, kind}` of each parent."""
    rows: str | None = None
    """Hash over the rows used, for data and stages."""
    maker: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    software: dict[str, str] = field(default_factory=software)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def write(self, folder: Path) -> None:
        """Write `lineage.json` into the folder of the artifact."""
        write_json(folder / "lineage.json", asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Lineage:
        """Read `lineage.json` of an artifact."""
        return cls(**json.loads((folder / "lineage.json").read_text(encoding="utf-8")))

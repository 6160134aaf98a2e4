"""Who answers, by name: a stage of a run, a folder with a model, or an endpoint. The one place where `with:` of an operator becomes an answerer.

base                             a stage of the recipe (no `/` in it)
./RUN, models/large, /abs/dir    a run, a model directory or a published checkpoint
http://HOST:PORT/v1#MODEL        an endpoint that speaks the OpenAI protocol
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field

from sightline.data.captioning import Asking, is_endpoint, is_outside
from sightline.data.operators import AnswererOf, Operator
from sightline.errors import Problem, Refused, nearest
from sightline.evaluate.answering import load_checked, load_here
from sightline.evaluate.answers import AnswerFile, Keyed, Remembering
from sightline.evaluate.comparing import ModelAnswerer
from sightline.evaluate.remote import Endpoint, RemoteAnswerer
from sightline.kinds import Config
from sightline.lineage import Lineage, sha256_tree
from sightline.model import directory


class EndpointLimits(Config):
    """How hard an endpoint may be asked, and who asks. Models of this machine take no notice."""

    key_file: Path | None = None
    """File with the key that the endpoint wants; absent: no key."""
    concurrency: int = Field(default=8, ge=1, le=1024)
    """Requests at a time."""
    most_requests: int | None = Field(default=None, ge=1)
    """Requests that may be sent in this process."""
    most_tokens: int | None = Field(default=None, ge=1)
    """Tokens that may be used in this process, as the server counts them."""


def named_answerer(
    name: str, *, answers: Path, stages: Mapping[str, Path] | None = None, precision: str = "float32", limits: EndpointLimits | None = None
) -> Remembering:
    """The answerer of that name; what it says is kept in the file `answers` and never asked twice. `stages`: folders of the models of finished stages.

    A model of a folder is checked against its golden requests first. Raises Refused where there is no such model, or the endpoint's key cannot be read.
    """
    problem = unknown_answerer(name, stages or {})
    if problem is not None:
        raise Refused(problem)
    return Remembering(_answerer(name, stages or {}, precision, limits or EndpointLimits()), AnswerFile(answers))


def remembered(file_of: Callable[[str, str], Path], stages: Mapping[str, Path] | None = None) -> AnswererOf:
    """Who answers operators that ask: each model of each precision is loaded once, and what it says is kept in the file `file_of(name, precision)`."""
    known: dict[tuple[str, str], Remembering] = {}

    def answerer(operator: Operator) -> Remembering:
        assert isinstance(operator, Asking)
        name, precision = operator.answered_by, operator.precision
        if (name, precision) not in known:
            limits = EndpointLimits(key_file=Path(operator.key_file) if operator.key_file else None)
            known[name, precision] = named_answerer(name, answers=file_of(name, precision), stages=stages, precision=precision, limits=limits)
        return known[name, precision]

    return answerer


def unknown_answerer(name: str, stages: Mapping[str, Path]) -> Problem | None:
    """Why nobody of that name can be asked; nothing is loaded for it."""
    if name in stages:
        return None
    allowed = ", ".join([*stages, "the folder of a run or a model, as a path with a `/`", "http://HOST:PORT/v1#MODEL"])
    if is_endpoint(name):
        fix = _unsound(name)
        return Problem(code="data/endpoint", place="with", found=re.sub("//[^/#]*@", "//", name), allowed=allowed, fix=fix) if fix else None
    try:
        directory.model_folder(Path(name))
    except Refused:
        near = nearest(name, list(stages)) or ("correct the path" if is_outside(name) else f"give the path of a folder: ./{name}")
        return Problem(code="data/no-model", place="with", found=f"no model {name!r}", allowed=allowed, fix=near)
    return None


def answerer_id(name: str) -> str:
    """What tells one model from another outside a recipe: the id of its lineage, the content of a checkpoint without one, or the address of an endpoint."""
    if is_endpoint(name):
        return name
    folder = directory.model_folder(Path(name))
    return Lineage.read(folder).id if (folder / "lineage.json").is_file() else sha256_tree(folder)


def _unsound(url: str) -> str:
    """How to mend the address of an endpoint; empty where nothing is wrong."""
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:
            return "correct the address"
    except ValueError:
        return "correct the address"
    if "@" in parts.netloc:
        return "leave the key out of the address: it goes into a file, --key-file FILE"
    return "" if parts.fragment else f"name the model too: {url.partition('#')[0]}#MODEL"


def _answerer(name: str, stages: Mapping[str, Path], precision: str, limits: EndpointLimits) -> Keyed:
    if name in stages:
        return ModelAnswerer(*load_here(stages[name]), precision)
    return _remote(name, limits) if is_endpoint(name) else ModelAnswerer(*load_checked(Path(name), precision), precision)


def _remote(url: str, limits: EndpointLimits) -> RemoteAnswerer:
    """The answerer behind an endpoint."""
    base, _, model = url.partition("#")
    return RemoteAnswerer(
        Endpoint(
            url=base,
            model=model,
            key=_key(limits.key_file) if limits.key_file else "",
            concurrency=limits.concurrency,
            most_requests=limits.most_requests,
            most_tokens=limits.most_tokens,
        )
    )


def _key(file: Path) -> str:
    """The key in a file: one line of printable ASCII. What it says is never shown."""
    try:
        key = file.read_bytes()[:4096].decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        found = f"{type(error).__name__}" if isinstance(error, UnicodeDecodeError) else str(error)
        raise Refused(Problem(code="data/key-file", place=str(file), found=found, allowed="a key on one line", fix="correct the path")) from None
    if not key or not key.isprintable() or " " in key:
        found = "nothing" if not key else "several lines, or words"
        raise Refused(Problem(code="data/key-file", place=str(file), found=found, allowed="a key on one line", fix="write the key into the file, alone"))
    return key

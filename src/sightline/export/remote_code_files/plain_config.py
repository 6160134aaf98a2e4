"""Settings of parts without pydantic: what `sightline.kinds.Config` is in an exported folder. Values were checked when the model was made, and are not checked again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import get_annotations
from typing import Any

_NEEDED: Any = object()
"""Stands for a field that has no default."""


def Field(*, default: Any = _NEEDED, default_factory: Callable[[], Any] | None = None, **limits: Any) -> Any:
    """The default of a field; limits were checked before."""
    return default_factory() if default_factory is not None else default


def located(faults: Iterable[str]) -> ValueError:
    """What is raised when parts do not fit together."""
    return ValueError("; ".join(faults))


class Config:
    """Fields are the annotated names of a class and its bases. Values never change; lists are kept as tuples."""

    def __init__(self, **said: Any) -> None:
        known = [name for cls in reversed(type(self).__mro__) for name, kind in get_annotations(cls).items() if not str(kind).startswith("ClassVar")]
        for name in dict.fromkeys(known):
            value = said.pop(name, getattr(type(self), name, _NEEDED))
            if value is _NEEDED:
                raise TypeError(f"{type(self).__name__} needs {name}")
            object.__setattr__(self, name, _frozen(value))
        if said:
            raise TypeError(f"{type(self).__name__} has no {', '.join(said)}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} is read-only")


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value

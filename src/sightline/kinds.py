"""Configs and kinds: torch-free descriptions of parts, chosen by a visible table and never by a name or a path.

A Config is a frozen, strict pydantic model. A Family is the table `kind -> Config class` of one sort of part (tiler, connector, objective...).
Third parties add kinds through the entry-point group `sightline.kinds`: each entry point is named `FAMILY.KIND` and loads the Config class.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema, to_json

GROUP = "sightline.kinds"


class Config(BaseModel):
    """Base of everything that a recipe can say. Unknown keys and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, ser_json_inf_nan="constants")


Kind = TypeVar("Kind", bound=Config)


class Family:
    """The table of one sort of part. `Annotated[Config, family]` is a recipe field that takes any of its kinds."""

    def __init__(self, name: str, default: str | None = None) -> None:
        self.name = name
        self.default = default
        self._table: dict[str, type[Config]] = {}
        self._third_parties_loaded = False
        self._being_drawn: set[type[Config]] = set()

    def add(self, cls: type[Kind]) -> type[Kind]:
        """Class decorator: the kind is the default of the class's `kind` field."""
        kind = cls.model_fields["kind"].default
        assert isinstance(kind, str), f"{cls.__name__} needs `kind: Literal[...] = ...`"
        if self._table.get(kind, cls) is not cls:
            raise ValueError(f"kind {kind!r} of {self.name} is taken by {self._table[kind].__module__}.{self._table[kind].__name__}")
        self._table[kind] = cls
        return cls

    def table(self) -> dict[str, type[Config]]:
        """All kinds, our own and those of installed entry points."""
        if not self._third_parties_loaded:
            self._third_parties_loaded = True
            for entry in entry_points(group=GROUP):
                family, _, _kind = entry.name.partition(".")
                if family == self.name:
                    self.add(entry.load())
        return self._table

    def parse(self, value: object) -> Config:
        """A Config from a mapping with `kind` (or the family's default kind), checked strictly.

        The mapping is read as JSON is, so that a list may fill a tuple and a string a path. Raises pydantic's ValidationError with every error of the mapping,
        each with its path inside it; pydantic puts the path of the field in front when a larger model is being checked.
        """
        table = self.table()
        if isinstance(value, Config):
            if not isinstance(value, tuple(table.values())):
                raise PydanticCustomError("kind_class", "{found} is no {family}", {"found": type(value).__name__, "family": self.name})
            return value
        if not isinstance(value, dict):
            raise PydanticCustomError("kind_type", "a mapping with `kind`, one of: {allowed}", {"family": self.name, "allowed": ", ".join(sorted(table))})
        kind = value.get("kind", self.default)
        cls = table.get(kind) if isinstance(kind, str) else None
        if cls is None:
            names = {"family": self.name, "allowed": ", ".join(sorted(table)), "choices": sorted(table)}
            error = PydanticCustomError("unknown_kind", "a kind of {family}: {allowed}", names)
            raise ValidationError.from_exception_data(self.name, [{"type": error, "loc": ("kind",), "input": kind}])
        return cls.model_validate_json(to_json(value, inf_nan_mode="constants"))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.parse, serialization=core_schema.plain_serializer_function_ser_schema(lambda config: config.model_dump(mode="json"))
        )

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The kinds as alternatives, told apart by the `const` of their `kind`; each class is one definition, however often it is named."""
        alternatives = []
        for _, cls in sorted(self.table().items()):
            whole = cls.__pydantic_core_schema__
            drawn_outside = cls in self._being_drawn  # a kind that holds its own family: its definition is in the making
            self._being_drawn.add(cls)
            reference = core_schema.definition_reference_schema(_reference(whole))
            alternatives.append(handler(core_schema.definitions_schema(reference, [] if drawn_outside else [whole])))
            if not drawn_outside:
                self._being_drawn.remove(cls)
        return {"type": "object", "properties": {"kind": {"enum": sorted(self.table())}}, "anyOf": alternatives}


def located(faults: Iterable[str]) -> ValidationError:
    """What a validator of a larger Config raises when parts of it do not fit together: each fault is `dotted.path: what is allowed`, the path taken from that Config.

    An item of a list may be named by its number or its `name`. A fault without a path is about the whole Config.
    """
    errors: list[InitErrorDetails] = []
    for fault in faults:
        match = re.match(r"([\w-]+(?:\.[\w-]+)*): ", fault)
        said = PydanticCustomError("fault", "{said}", {"said": fault[match.end() :] if match else fault})
        errors.append({"type": said, "loc": tuple(match[1].split(".")) if match else (), "input": None})
    return ValidationError.from_exception_data("faults", errors)


def _reference(schema: core_schema.CoreSchema) -> str:
    """The name under which pydantic refers to a model's core schema."""
    whole = cast(dict[str, Any], schema)
    inner = whole["schema"] if whole["type"] == "definitions" else whole
    return inner["schema_ref"] if inner["type"] == "definition-ref" else inner["ref"]

"""Two replies to the same request, side by side: the same words or not, the same places or not, and whether each is well formed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sightline.evaluate.region_matching import mean_iou
from sightline.samples.codecs import rotated
from sightline.samples.records import region_of
from sightline.samples.sample import RotatedBox
from sightline.serve.chat_client import Reply

Outcome = Literal["equal", "differ", "failed"]


def outcome(first: Reply, other: Reply) -> Outcome:
    """equal: the same texts, ended the same way; failed: one of them is no answer."""
    if not (first.answered and other.answered):
        return "failed"
    return "equal" if _said(first) == _said(other) else "differ"


def _said(reply: Reply) -> list[tuple[str, str]]:
    return [(text, str(choice.get("finish_reason"))) for text, choice in zip(reply.texts, reply.choices, strict=True)]


def well_formed(request: Mapping[str, Any], reply: Reply) -> bool:
    """Whether an answer has the form that its request or its model's codec gives it: no problem with its regions, JSON where JSON was asked for."""
    if any(choice["message"].get("region_problems") for choice in reply.choices):
        return False
    asked = request.get("response_format")
    kind = asked.get("type") if isinstance(asked, dict) else None
    return kind not in ("json_object", "json_schema") or all(map(_is_json, reply.texts))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def boxes(reply: Reply) -> list[RotatedBox] | None:
    """Boxes that the first choice names, in px; None where its model names no regions at all. Raises KeyError, TypeError or ValueError for records that are no regions."""
    found = reply.choices[0]["message"].get("regions") if reply.choices else None
    return None if found is None else boxes_of(found)


def boxes_of(records: Sequence[Mapping[str, Any]]) -> list[RotatedBox]:
    """Boxes of region records; what is neither a box nor has one around it (a point, a tap) is left out."""
    return [box for record in records if (box := rotated(region_of(record).shape)) is not None]


def agreement(first: Reply, other: Reply) -> float | None:
    """Mean rotated IoU, 0..1, of the regions that both name; None where one of the models names none at all."""
    ours, theirs = boxes(first), boxes(other)
    return None if ours is None or theirs is None else mean_iou(ours, theirs)

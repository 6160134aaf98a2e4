"""All kinds of head, in one table. Who needs them by kind imports HEAD from here."""

from __future__ import annotations

from sightline.model.head_kinds.map_head import MapHead
from sightline.model.head_kinds.sam_head import SamHead
from sightline.model.heads import HEAD, Heads

__all__ = ["HEAD", "Heads"]

for _head in (MapHead, SamHead):
    HEAD.add(_head)

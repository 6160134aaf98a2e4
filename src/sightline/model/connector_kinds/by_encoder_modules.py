"""The module of connectors by encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from sightline.model.batch import Features, Pictures, SideTexts


class ByEncoder(nn.Module):
    """See ByEncoderConnector."""

    def __init__(self, connectors: dict[str, nn.Module]) -> None:
        super().__init__()
        self.connectors = nn.ModuleDict(connectors)

    @property
    def blocks(self) -> list[nn.Module]:
        """Blocks of one connector after the other."""
        connectors: list[Any] = list(self.connectors.values())
        return [block for connector in connectors for block in connector.blocks]

    def forward(self, features: Features, texts: SideTexts | None = None, pictures: Pictures | None = None) -> Features:
        """Through the only connector."""
        [connector] = self.connectors.values()
        return connector(features, texts=texts, pictures=pictures)

    def forward_each(self, features: Mapping[str, Features], texts: SideTexts | None = None, pictures: Pictures | None = None) -> dict[str, Features]:
        """Each encoder's features through its own connector, width D."""
        return {name: self.connectors[name](own, texts=texts, pictures=pictures) for name, own in features.items()}

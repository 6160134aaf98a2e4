"""All kinds of connector, in one table. Who needs them by kind imports CONNECTOR from here."""

from __future__ import annotations

from sightline.model.connector_kinds.attention_pool import AttentionPoolConnector
from sightline.model.connector_kinds.by_encoder import ByEncoderConnector
from sightline.model.connector_kinds.merger import MergerConnector
from sightline.model.connector_kinds.perceiver import PerceiverConnector
from sightline.model.connector_kinds.query_transformer import QueryTransformerConnector
from sightline.model.connector_kinds.resamplers import ResamplerConnector, SpatialResamplerConnector
from sightline.model.connectors import CONNECTOR

for _connector in (
    ByEncoderConnector,
    ResamplerConnector,
    SpatialResamplerConnector,
    PerceiverConnector,
    AttentionPoolConnector,
    MergerConnector,
    QueryTransformerConnector,
):
    CONNECTOR.add(_connector)

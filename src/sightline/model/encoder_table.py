"""All kinds of encoder, in one table. Who needs them by kind imports ENCODER from here."""

from __future__ import annotations

from sightline.model.encoder_kinds.canvas_tower import MllamaEncoder
from sightline.model.encoder_kinds.modified_resnet import ModifiedResNetEncoder
from sightline.model.encoder_kinds.rope_towers import PixtralEncoder, Qwen2VlEncoder
from sightline.model.encoder_kinds.staged_convnext import StagedConvNextEncoder
from sightline.model.encoders import ENCODER

for _encoder in (PixtralEncoder, Qwen2VlEncoder, MllamaEncoder, ModifiedResNetEncoder, StagedConvNextEncoder):
    ENCODER.add(_encoder)

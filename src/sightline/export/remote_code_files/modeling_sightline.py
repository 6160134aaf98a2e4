"""An exported model: encoders, combine and connector of Sightline before a language model of transformers.

Letters: R rows of pixels, N entries of the feature table, B bins, T tokens, D width, V vocabulary (see batch.py, picture_geometry.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast

from sightline.export.remote_code_files.configuration_sightline import SightlineConfig
from sightline.export.remote_code_files.part_kinds import ENCODERS
from sightline.export.remote_code_files.picture_geometry import Geometry, Seen
from sightline.model.batch import Features, Pictures
from sightline.model.vlm import LayoutVectors


class Prompts(nn.Module):
    """Trained vectors: (Q, D) after each picture, or (blocks or 1, Q, C) among the tokens of each encoder by its name."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        super().__init__()
        if said["entries"]:
            self.vectors: Any = nn.Parameter(torch.zeros(said["shapes"][""]))
        else:
            self.vectors = nn.ParameterDict({name: nn.Parameter(torch.zeros(shape)) for name, shape in said["shapes"].items()})


class SightlinePreTrainedModel(PreTrainedModel):
    """What both classes say of themselves."""

    config_class = SightlineConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class SightlineModel(SightlinePreTrainedModel):
    """Without the language model's head."""

    def __init__(self, config: SightlineConfig) -> None:
        super().__init__(config)
        parts = config.parts
        self.geometry = Geometry(parts)
        width: int = parts["width"]
        channels: dict[str, int] = {said["name"]: said["channels"] for said in parts["encoders"]}
        self.vision_tower = nn.ModuleDict({said["name"]: ENCODERS[said["kind"]](said) for said in parts["encoders"]})
        combine, connector = self.geometry.combine, self.geometry.connector
        self.combine: Any = combine.build(channels if combine.place == "before" else dict.fromkeys(channels, width))
        self.connector: Any = None
        if connector is not None:
            each = hasattr(connector, "build_each")
            before = combine.channels(channels) if combine.place == "before" else next(iter(channels.values()))
            self.connector = connector.build_each(channels, width) if each else connector.build(before, width)
        self.layout = LayoutVectors(self.geometry.layout.vectors, width) if self.geometry.layout.vectors else None
        self.prompts = Prompts(parts["prompts"]) if parts["prompts"] is not None else None
        self.language_model: Any = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """The language model's."""
        self.language_model.set_input_embeddings(value)

    def get_decoder(self) -> nn.Module:
        """The language model."""
        return self.language_model

    def get_image_features(self, pixel_values: Tensor, picture_sizes: Tensor | None = None, return_dict: bool = True, **others: Any) -> Any:
        """Entries of each picture in the order in which they stand in the text: `pooler_output` is a list of (entries, D). `pixel_values` (R, length), `picture_sizes` (R, 2)."""
        if picture_sizes is None:
            raise ValueError("pixel_values without picture_sizes: hand over both, as the processor gives them")
        seen = [self.geometry.seen(*size) for size in self.geometry.pictures(picture_sizes.flatten(0, -2).tolist())]
        rows_of_all = pixel_values.flatten(0, -2).to(torch.uint8)  # exact, whatever an engine made of whole numbers up to 255
        parts = rows_of_all.split([self.geometry.rows_of(one.tiling) for one in seen])
        crops = [crop for one, rows in zip(seen, parts) for crop in self.geometry.crops(rows, one.tiling)]
        owners = [number for number, one in enumerate(seen) for _ in one.tiling.crops]
        pictures = Pictures(
            tilings=tuple(one.tiling for one in seen), picture_of=torch.tensor(owners, dtype=torch.int64, device=pixel_values.device), pixels=tuple(crops)
        )
        found = self._placed(seen, self._table(pictures))
        return BaseModelOutputWithPooling(pooler_output=found) if return_dict else (found,)  # pyright: ignore[reportArgumentType]

    def _placed(self, seen: list[Seen], table: Tensor) -> list[Tensor]:
        """Entries of each picture, in the order of its layout."""
        total, first, found = sum(one.count for one in seen), 0, []
        for one in seen:
            found.append(table[torch.tensor([first + entry if entry >= 0 else total - 1 - entry for entry in one.entries], device=table.device)])
            first += one.count
        return found

    def _table(self, pictures: Pictures) -> Tensor:
        """The feature table (N, D): crop tokens of all pictures, then the layout's vectors, then prompts."""
        among = self.prompts.vectors if self.prompts is not None and isinstance(self.prompts.vectors, nn.ParameterDict) else {}
        features = {name: encoder(pictures, **({"prompts": among[name]} if name in among else {})) for name, encoder in self.vision_tower.items()}
        if self.geometry.combine.place == "before":
            table: Features = self._connect(self.combine(features, pictures), pictures)
        elif hasattr(self.connector, "forward_each"):
            table = self.combine(self.connector.forward_each({name: self._cast(own) for name, own in features.items()}, None, pictures), pictures)
        else:
            table = self.combine({name: self._connect(own, pictures) for name, own in features.items()}, pictures)
        vectors = [self.layout()] if self.layout is not None else []
        vectors += [self.prompts.vectors] if self.prompts is not None and not among else []
        return torch.cat([table.values, *(own.to(table.values.dtype) for own in vectors)])

    def _connect(self, features: Features, pictures: Pictures) -> Features:
        return features if self.connector is None else self.connector(self._cast(features), texts=None, pictures=pictures)

    def _cast(self, features: Features) -> Features:
        return replace(features, values=features.values.to(next(self.connector.parameters()).dtype))

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        picture_sizes: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **others: Any,
    ) -> Any:
        """(B, T) -> what the language model gives, hidden states (B, T, D) first. Raises ValueError unless there is one place for each entry of the pictures."""
        embedded = self._embedded(input_ids, pixel_values, picture_sizes) if inputs_embeds is None else inputs_embeds
        return self.language_model(
            inputs_embeds=embedded,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **others,
        )

    def _embedded(self, input_ids: Tensor | None, pixel_values: Tensor | None, picture_sizes: Tensor | None) -> Tensor:
        """Token embeddings (B, T, D), with the entries of pictures in their places."""
        if input_ids is None:
            raise ValueError("input_ids or inputs_embeds: one of them is needed")
        found: Tensor = self.get_input_embeddings()(input_ids)
        if pixel_values is None:
            return found
        features = torch.cat(self.get_image_features(pixel_values, picture_sizes).pooler_output)
        places = input_ids == self.config.image_token_id
        if int(places.sum()) != len(features):
            raise ValueError(f"{int(places.sum())} places for {len(features)} entries of pictures: use the processor of this folder")
        return found.masked_scatter(places[..., None], features.to(found.dtype))


class SightlineForConditionalGeneration(SightlinePreTrainedModel, GenerationMixin):
    """With the language model's head."""

    def __init__(self, config: SightlineConfig) -> None:
        super().__init__(config)
        self.model = SightlineModel(config)
        text: Any = config.text_config
        self.lm_head = nn.Linear(config.parts["width"], text.vocab_size, bias=config.head_bias)
        embeddings = self.model.get_input_embeddings()
        [name] = [name for name, module in self.model.named_modules() if module is embeddings]
        self._tied_weights_keys = {"lm_head.weight": f"model.{name}.weight"}
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """The language model's."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.lm_head

    def get_decoder(self) -> nn.Module:
        """The language model."""
        return self.model.get_decoder()

    def get_image_features(self, pixel_values: Tensor, picture_sizes: Tensor | None = None, return_dict: bool = True, **others: Any) -> Any:
        """See SightlineModel."""
        return self.model.get_image_features(pixel_values, picture_sizes, return_dict=return_dict)

    def logits(self, hidden: Tensor) -> Tensor:
        """(.., D) -> (.., V), with the scale or soft cap of the language model's class."""
        scores, text = self.lm_head(hidden), self.config.text_config
        scores = scores * text.logit_scale if getattr(text, "logit_scale", None) else scores
        scores = scores / text.logits_scaling if getattr(text, "logits_scaling", None) else scores
        cap = getattr(text, "final_logit_softcapping", None)
        return torch.tanh(scores / cap) * cap if cap else scores

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        picture_sizes: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        **others: Any,
    ) -> Any:
        """(B, T) -> logits (B, T, V), of the last `logits_to_keep` tokens alone where it is not 0; with `labels` the loss too."""
        found = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            picture_sizes=picture_sizes,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **others,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.logits(found.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1])
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=found.past_key_values)
        return output.to_tuple() if return_dict is False else output

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Pictures go through the model once: not where keys and values are kept already."""
        base: Any = super()
        found = base.prepare_inputs_for_generation(input_ids, *args, **kwargs)
        cache = found.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            found.pop("pixel_values", None)
            found.pop("picture_sizes", None)
        return found

"""What transformers says about requests, in a process of its own that cannot import this package: proof.py starts it.

FOLDER/job.json: the model's folder, the class that opens it, and the requests; FOLDER/said.json and FOLDER/said.safetensors: what came of them. This file is run by its path.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor


def main(folder: Path) -> None:
    """Answer the job of a folder."""
    torch.set_num_threads(1)
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    load = getattr(transformers, job["auto"]).from_pretrained
    model, info = load(job["model"], dtype=torch.float32, output_loading_info=True)
    if job["adapter"]:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, job["adapter"])
    model.eval()
    reader = Reader(job, model)
    answer = written if job["ask"] == "write" else embedded
    tensors: dict[str, Tensor] = {}
    told = []
    with torch.no_grad():
        for number, request in enumerate(job["requests"]):
            one, found = answer(model, reader, request)
            told.append(one)
            tensors |= {f"{number}.{name}": tensor.contiguous() for name, tensor in found.items()}
    save_file(tensors, folder / "said.safetensors")
    keys = {name: sorted(map(str, info[name])) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    known = ("torch", "transformers", "tokenizers", *(("peft",) if job["adapter"] else ()))
    said = {"requests": told, "keys": keys, "through": reader.through, "software": {name: importlib.metadata.version(name) for name in known}}
    (folder / "said.json").write_text(json.dumps(said), encoding="utf-8")


class Reader:
    """Inputs of the model: by the stock processor, or by the stock image processor, tokenizer and template where the processor cannot be made without torchvision."""

    def __init__(self, job: Mapping[str, Any], model: Any) -> None:
        self.job = job
        self.whole = job["processor"] or find_spec("torchvision") is not None
        base = model.get_base_model() if job["adapter"] else model
        self.taken = set(inspect.signature(base.forward).parameters)
        if self.whole:
            self.processor = transformers.AutoProcessor.from_pretrained(job["model"])
            self.tokenizer = self.processor.tokenizer
            self.through = "stock processor"
        else:
            self.pictures = transformers.AutoImageProcessor.from_pretrained(job["model"], backend="pil")
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(job["model"])
            self.through = "stock image processor, tokenizer and chat template, with our count of picture tokens: the stock processor needs torchvision"

    def prompt(self, request: Mapping[str, Any]) -> dict[str, Tensor]:
        """Everything that generation starts from."""
        images = shown(request)
        messages = [{"role": turn["role"], "content": parts(turn["content"], images)} for turn in request["messages"]]
        if self.whole and getattr(self.processor, "chat_template", None):
            asked = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
            return dict(self.processor.apply_chat_template(messages, **asked))
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        if self.whole:
            return dict(self.processor(text=text, return_tensors="pt", **({"images": images} if images else {})))
        texts = text.split(self.job["placeholder"])
        assert len(texts) == len(request["expansions"]) + 1, "the template writes a placeholder for each picture"
        text = "".join(word for pair in zip(texts, [*request["expansions"], ""], strict=True) for word in pair)
        words = dict(self.tokenizer(text, add_special_tokens=False, return_tensors="pt"))
        seen = dict(self.pictures(images, return_tensors="pt")) if images else {}
        kinds = {"mm_token_type_ids": (words["input_ids"] == self.job["image"]).int()}
        return {name: value for name, value in (words | seen | kinds).items() if name in self.taken}


def parts(content: list[Any], images: list[Image.Image]) -> list[dict[str, Any]]:
    """The content of a message: texts, and pictures by their numbers."""
    return [{"type": "text", "text": one} if isinstance(one, str) else {"type": "image", "image": images[one]} for one in content]


def shown(request: Mapping[str, Any]) -> list[Image.Image]:
    """Its pictures, in the order in which they are shown."""
    return [Image.open(file).convert("RGB") for file in request["pictures"]]


def written(model: Any, reader: Reader, request: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The prompt's ids, a greedy answer of so many tokens, and the logits (tokens, V) of each of them."""
    inputs = reader.prompt(request)
    plain = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "max_new_tokens": request["tokens"]}
    out = model.generate(**inputs, **plain, return_dict_in_generate=True, output_logits=True)
    tokens = out.sequences[0, -len(out.logits) :].tolist()
    text = reader.tokenizer.decode(tokens, skip_special_tokens=True)
    return {"ids": inputs["input_ids"][0].tolist(), "tokens": tokens, "text": text}, {"logits": torch.cat(out.logits).float()}


def embedded(model: Any, reader: Reader, request: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The ids of a text, and the vectors (E,) of a picture and of the text."""
    inputs = reader.processor(text=[request["text"]], images=shown(request), return_tensors="pt", truncation=True, **request["padding"])
    out = model(**inputs)
    return {"ids": inputs["input_ids"][0].tolist()}, {"picture": out.image_embeds[0].float(), "text": out.text_embeds[0].float()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A program of its own: reads an exported folder by stock transformers where Sightline cannot be imported, and says what the model computes and answers.

    python remote_code_reload.py FOLDER REQUESTS

REQUESTS/requests.json: a list of {messages, pictures, tokens}. Written beside it: answers.json (ids, generated ids, versions) and logits.safetensors.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any


class Blocked:
    """Refuses to import a package."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        """Raises ModuleNotFoundError for the package and its modules."""
        if name.split(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}: it is blocked here")


def answers(folder: Path, requests: Path) -> None:
    """Logits of each prompt and greedy answers, through the folder's own processor."""
    import torch
    from PIL import Image
    from safetensors.torch import save_file
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    loading: Any = AutoModelForImageTextToText
    model, info = loading.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32, output_loading_info=True)
    if wrong := {key: sorted(map(str, value)) for key, value in info.items() if value}:
        raise SystemExit(f"tensors that do not fit: {wrong}")
    model.eval()
    said, logits = [], {}
    for number, request in enumerate(json.loads((requests / "requests.json").read_text(encoding="utf-8"))):
        pictures = [Image.open(requests / name) for name in request["pictures"]]
        text = processor.apply_chat_template(request["messages"], add_generation_prompt=True)
        inputs = processor(text=[text], images=pictures or None, return_tensors="pt")
        with torch.no_grad():
            logits[f"{number}"] = model(**inputs).logits[0].contiguous()
            drawn = model.generate(**inputs, max_new_tokens=request["tokens"], do_sample=False)[0, inputs["input_ids"].shape[1] :]
        said.append({"ids": inputs["input_ids"][0].tolist(), "drawn": drawn.tolist()})
    save_file(logits, requests / "logits.safetensors")
    versions = {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy", "pillow")}
    (requests / "answers.json").write_text(json.dumps({"answers": said, "software": versions}), encoding="utf-8")


if __name__ == "__main__":
    sys.meta_path.insert(0, Blocked("sightline"))  # pyright: ignore[reportArgumentType]
    answers(Path(sys.argv[1]), Path(sys.argv[2]))

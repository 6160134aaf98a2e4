"""Which engines answer with a model, in what form, and why not: by the targets that take it. Read in the sources of the versions below; docs/export.md says what was run.

transformers 5.23, vLLM 0.32, SGLang 0.5.23, llama.cpp and Ollama of 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sightline.errors import Problem
from sightline.export.exporters import closest, fits, fitting, said
from sightline.model.assembly import ModelConfig

ENGINES = ("transformers", "transformers serve", "vLLM", "SGLang", "llama.cpp", "Ollama")
_SERVED = (True, "one request at a time, without a key: for trying out")
_WITH_TORCHVISION = (True, "with torchvision beside it, which its processor needs; one request at a time, without a key")
_NO_GGUF = (False, "llama.cpp makes no GGUF files of it, and Ollama's own converter does not know the class")
_NO_CONVERTER = (False, "its converter does not know the class")
_BACKEND = "--model-impl transformers"

TAKEN: dict[str, dict[str, tuple[bool, str]]] = {
    "llava": {
        "transformers": (True, "LlavaForConditionalGeneration"),
        "transformers serve": _SERVED,
        "vLLM": (True, "native class"),
        "SGLang": (True, f"{_BACKEND}: its own class is made for Pixtral's tower"),
        "llama.cpp": (False, "its converter takes LLaVA with Pixtral's tower only"),
        "Ollama": _NO_GGUF,
    },
    "pixtral": {
        "transformers": (True, "LlavaForConditionalGeneration; its processor needs torchvision"),
        "transformers serve": _WITH_TORCHVISION,
        "vLLM": (True, "native class"),
        "SGLang": (True, "native class"),
        "llama.cpp": (True, "convert_hf_to_gguf.py, and again with --mmproj: two files"),
        "Ollama": (False, "its own converter does not know the class; llama.cpp runs the GGUF files"),
    },
    "llava-next": {
        "transformers": (True, "LlavaNextForConditionalGeneration"),
        "transformers serve": _SERVED,
        "vLLM": (True, "native class"),
        "SGLang": (True, f"{_BACKEND}: it has no class of its own"),
        "llama.cpp": _NO_CONVERTER,
        "Ollama": _NO_GGUF,
    },
    "qwen2-vl": {
        "transformers": (True, "Qwen2VLForConditionalGeneration; its processor needs torchvision"),
        "transformers serve": _WITH_TORCHVISION,
        "vLLM": (True, "native class"),
        "SGLang": (True, "native class"),
        "llama.cpp": (True, "convert_hf_to_gguf.py, and again with --mmproj: two files"),
        "Ollama": (False, "its own converter knows Qwen2.5-VL and later only; llama.cpp runs the GGUF files"),
    },
    "internvl": {
        "transformers": (True, "InternVLForConditionalGeneration; its processor needs torchvision"),
        "transformers serve": _WITH_TORCHVISION,
        "vLLM": (True, "native class of InternS1"),
        "SGLang": (True, f"{_BACKEND}: its own class is of the original layout"),
        "llama.cpp": (False, "its converter takes the original layout only"),
        "Ollama": _NO_GGUF,
    },
    "mllama": {
        "transformers": (True, "MllamaForConditionalGeneration"),
        "transformers serve": _SERVED,
        "vLLM": (False, "it dropped cross-attention decoders with 0.10.2"),
        "SGLang": (True, "native class"),
        "llama.cpp": _NO_CONVERTER,
        "Ollama": (True, "ollama create from this folder"),
    },
    "idefics2": {
        "transformers": (True, "Idefics2ForConditionalGeneration"),
        "transformers serve": _SERVED,
        "vLLM": (False, "no class of its own, and its transformers backend needs a processor that counts tokens of pictures"),
        "SGLang": (False, "no class of its own"),
        "llama.cpp": (False, "its converter knows Idefics3 only"),
        "Ollama": _NO_GGUF,
    },
    "blip-2": {
        "transformers": (True, "Blip2ForConditionalGeneration; render the chat template with the tokenizer"),
        "transformers serve": (False, "its processor takes no chat template"),
        "vLLM": (True, "native class"),
        "SGLang": (False, "no class of its own"),
        "llama.cpp": _NO_CONVERTER,
        "Ollama": _NO_GGUF,
    },
    "clip": {
        "transformers": (True, "CLIPModel"),
        "transformers serve": (False, "it serves models that write"),
        "vLLM": (True, "vectors: --runner pooling"),
        "SGLang": (True, "vectors: --is-embedding"),
        "llama.cpp": _NO_CONVERTER,
        "Ollama": _NO_GGUF,
    },
    "siglip": {
        "transformers": (True, "SiglipModel"),
        "transformers serve": (False, "it serves models that write"),
        "vLLM": (True, "vectors: --runner pooling"),
        "SGLang": (False, "no class of its own"),
        "llama.cpp": _NO_CONVERTER,
        "Ollama": _NO_GGUF,
    },
    "remote-code": {
        "transformers": (True, "trust_remote_code=True"),
        "transformers serve": (True, "--trust-remote-code; one picture at a time, without a key: for trying out"),
        "vLLM": (True, f"{_BACKEND} --trust-remote-code"),
        "SGLang": (True, f"{_BACKEND} --trust-remote-code"),
        "llama.cpp": _NO_CONVERTER,
        "Ollama": _NO_GGUF,
    },
}
"""Target -> engine -> whether it takes the exported folder, and how, or why not."""


@dataclass(frozen=True, kw_only=True)
class Taking:
    """One engine."""

    engine: str
    takes: bool
    how: str
    """What to know, or the reason why not."""


@dataclass(frozen=True, kw_only=True)
class Engines:
    """All engines for one model."""

    target: str | None
    """The target that they were asked about; None: no target takes the model."""
    takings: tuple[Taking, ...]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str, str]]:
        """Engine, yes or no, how or why not."""
        return [(one.engine, "yes" if one.takes else "no", one.how) for one in self.takings]


def engines(config: ModelConfig, found: Mapping[str, list[Problem]] | None = None) -> Engines:
    """What each engine makes of a resolved Config. `found`: what `exporters.fits` said, where it is known."""
    asked = dict(found) if found is not None else fits(config)
    taken = fitting(asked)
    if not taken:
        near = closest(asked)
        reason = f"no target takes it; {near} is closest: {said(asked[near])}"
        return Engines(target=None, takings=tuple(Taking(engine=engine, takes=False, how=reason) for engine in ENGINES))
    target = taken[0]
    takings = []
    for engine in ENGINES:
        takes, how = TAKEN[target][engine]
        against = _against(config, engine) if takes else None
        takings.append(Taking(engine=engine, takes=takes and against is None, how=against or how))
    return Engines(target=target, takings=tuple(takings))


def _against(config: ModelConfig, engine: str) -> str | None:
    """What about this model keeps an engine from taking its form."""
    if engine == "llama.cpp" and config.tokenizer.train_on:
        return "its converter knows tokenizers by what they are published as, and this one is trained by the recipe"
    if engine == "vLLM" and config.fusion.prompt == "memory":
        return "it dropped language models with an encoder of their own with 0.10.2"
    return None

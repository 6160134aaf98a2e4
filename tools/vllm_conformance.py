"""Whether vLLM takes what Sightline exports, without a GPU: its own config parser, loader, processor and picture encoder run on the CPU over tiny exports, and embeddings are compared with ours.

    python tools/vllm_conformance.py ENVIRONMENT [--folder DIR]

ENVIRONMENT is a folder for an environment of its own (3.7 GB), made on the first call. The last line of the output is JSON: for each export what was loaded, how many tokens the processor
wrote, and the largest difference of embeddings. Exit code 1 where one is refused or differs by more than 1e-5.

vLLM is made for GPUs: a few operators of CUDA builds are declared without being there (see `_SCHEMAS`, `_stand_in`); nothing calls them. Decoding does not run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

VLLM = "0.32.0"
TORCH, TRANSFORMERS, TORCHVISION = "torch==2.13.0", "transformers==5.19.0", "torchvision==0.28.0"
APART = (
    *(
        "nvidia",
        "nvtx",
        "pynvvideocodec",
        "flashinfer",
        "quack",
        "tilelang",
        "tokenspeed",
        "apache-tvm",
        "humming",
        "fastsafetensors",
        "instanttensor",
        "numba",
    ),
    *("torch", "transformers"),
)
"""Beginnings of the names of requirements that only a GPU needs, or that are installed by themselves."""
TOLERANCE = 1e-5
WHOLE, ANY = ((56, 56), (56, 56)), ((90, 60), (33, 120))
"""Sizes in px of the pictures of a model. Stock processors resample by torchvision, which rounds otherwise than Pillow: theirs are pictures that need no resampling."""

# the environment


def prepared(folder: Path) -> Path:
    """The interpreter of the environment, made where it is not there."""
    python = folder / "bin" / "python"
    if (folder / "made").is_file():
        return python
    venv.create(folder, with_pip=True)

    def install(*words: str) -> None:
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-compile", *words], check=True)

    install(TORCH)
    install("--no-deps", f"vllm=={VLLM}", TORCHVISION)
    needs = subprocess.run([str(python), "-c", _REQUIREMENTS], capture_output=True, text=True, check=True).stdout.splitlines()
    install(TORCH, TRANSFORMERS, *(need for need in needs if not need.lower().startswith(APART)))
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "sitecustomize.py").write_text(_SCHEMAS, encoding="utf-8")
    (folder / "made").write_text(VLLM, encoding="utf-8")
    return python


_REQUIREMENTS = """
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement
for line in requires("vllm"):
    need = Requirement(line)
    if need.marker is None or need.marker.evaluate({"extra": ""}):
        print(str(need).partition(";")[0].strip())
"""
_SCHEMAS = """
import sys

class BeforeTorchvision:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch
            for operator in ("nms", "qnms"):
                torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

sys.meta_path.insert(0, BeforeTorchvision())
"""
"""Declares, in every process of the environment, operators that torchvision's CUDA build would register and the CPU build of torch cannot load."""

# exports, written by Sightline


def written(folder: Path) -> Iterator[dict[str, Any]]:
    """Tiny models with random weights, exported, with what Sightline computes of two pictures."""
    import torch
    from safetensors.torch import save_file

    for name, (said, native, sizes) in models().items():
        home, out = folder / name / "ours", folder / name / "export"
        model, processor = saved(said, home)
        if native is None:
            from sightline.export.remote_code import RemoteCodeExporter

            RemoteCodeExporter().write(home, out)
        else:
            from sightline.model.native.native_directory import export

            export(home, out, native)
        tensors = {}
        for number, size in enumerate(sizes):
            picture = noise(number, *size, folder / name / f"{number}.png")
            with torch.no_grad():
                tensors[f"{number}"] = entries(model, processor, picture).contiguous()
        save_file(tensors, folder / name / "entries.safetensors")
        yield {"name": name, "folder": str(folder / name), "form": native or "remote-code"}


def models() -> dict[str, tuple[dict[str, Any], str | None, tuple[tuple[int, int], ...]]]:
    """Name -> what a recipe would say, the published form (None: remote code), and sizes of pictures."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    clip = {"config": {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14, **sizes}, "layer": -2}
    dino = {
        "config": {"model_type": "dinov2", "image_size": 56, "patch_size": 14, "mlp_ratio": 2, **{k: v for k, v in sizes.items() if k != "intermediate_size"}}
    }
    words = {
        "vocab_size": 512,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "tie_word_embeddings": False,
    }
    llama = {"config": {"model_type": "llama", **sizes, "head_dim": 16, **words}}
    qwen = {"config": {"model_type": "qwen2", **sizes, **words}, "sections": [2, 3, 3]}
    tower = {"model_type": "qwen2_vl_vision", "embed_dim": 64, "depth": 2, "num_heads": 4, "mlp_ratio": 2, "patch_size": 14, "hidden_size": 64}
    resampler = {"kind": "resampler", "side": 2, "head_width": 16}
    return {
        "llava": (
            {"encoders": [clip], "tiler": {"kind": "whole", "size": 56, "fit": "crop"}, "connector": {"kind": "mlp"}, "language_model": llama},
            "llava",
            WHOLE,
        ),
        "llava-next": (
            {
                "encoders": [clip],
                "tiler": {"kind": "llava-next", "size": 56, "pinpoints": [[56, 112], [112, 56], [112, 112]]},
                "connector": {"kind": "mlp"},
                "layout": {"kind": "merged"},
                "language_model": llama,
            },
            "llava_next",
            WHOLE,
        ),
        "qwen2-vl": (
            {
                "encoders": [{"kind": "qwen2-vl", "config": tower}],
                "tiler": {"kind": "smart-resize", "factor": 28, "min_pixels": 3136, "max_pixels": 12544},
                "connector": {"kind": "merger"},
                "layout": {"kind": "flat", "begin": "<|vision_start|>", "end": "<|vision_end|>", "film_as": "block"},
                "language_model": qwen,
                "chat": "chatml",
            },
            "qwen2_vl",
            ((84, 56), (56, 112)),
        ),
        "two-encoders": (
            {
                "encoders": [{"name": "clip", **clip}, {"name": "dino", **dino}],
                "tiler": {"kind": "catty", "size": 56, "most": 4},
                "combine": {"kind": "average", "place": "after"},
                "connector": {"kind": "by-encoder", "connectors": {"clip": {"kind": "mlp"}, "dino": {"kind": "mlp"}}},
                "language_model": llama,
            },
            None,
            ANY,
        ),
        "slices": (
            {
                "encoders": [{**clip, "positions": "interpolate"}],
                "tiler": {"kind": "llava-uhd", "size": 56, "patch": 14},
                "connector": resampler,
                "layout": {"kind": "separated"},
                "language_model": llama,
            },
            None,
            ANY,
        ),
    }


def saved(said: Mapping[str, Any], home: Path) -> tuple[Any, Any]:
    """The model with random weights and its processor, in a model directory."""
    import torch

    from sightline.model import directory
    from sightline.model.assembly import ModelConfig
    from sightline.model.processor import Processor
    from sightline.model.tokens import train_tokenizer
    from sightline.model.vlm import Model

    config = ModelConfig.model_validate_json(json.dumps(said))
    tokenizer = train_tokenizer(["How many ships? Three ships in the harbor, by the pier."], 320, config.chat_format(), config.controls())
    torch.manual_seed(0)
    model = Model(config.resolve(512, control=tokenizer.control)).eval()
    processor = Processor(model.config, tokenizer)
    home.mkdir(parents=True)
    directory.save(home, model, processor)
    return model, processor


def noise(seed: int, width: int, height: int, path: Path) -> Any:
    """A picture, and a file that holds it."""
    import numpy as np

    from sightline.samples.pictures import describe, encoded

    data = encoded(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))
    path.write_bytes(data)
    return describe(data, path.name, str(path))


def entries(model: Any, processor: Any, picture: Any) -> Any:
    """Entries of a picture (N, D) in the order in which they stand in a prompt."""
    from sightline.samples.sample import Origin, Sample, Show, Text, Turn

    turn = Turn(role="user", items=(Show(picture=0), Text(text="How many ships?")))
    prompt = processor.encode(Sample(id="0", pictures=(picture,), turns=(turn,), origin=Origin(source="conformance")), answer=False)
    batch = processor.collate([[prompt]])
    return model.see(batch)[batch.decoder.sources]


# inside the environment


def _stand_in() -> None:
    """Operators that layers name when they are built, and that nothing calls here."""
    import torch

    torch.accelerator.empty_cache = lambda: None
    for name in ("gelu_new", "gelu_fast", "gelu_quick", "gelu_and_mul", "silu_and_mul", "gelu_tanh_and_mul", "rms_norm", "fused_add_rms_norm"):
        if not hasattr(torch.ops._C, name):
            setattr(torch.ops._C, name, None)


def inside(folder: Path) -> dict[str, Any]:
    """One export through vLLM's parser, registry, loader, processor and picture encoder."""
    os.environ |= {"VLLM_TARGET_DEVICE": "cpu", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    _stand_in()
    import torch
    from PIL import Image
    from safetensors.torch import load_file
    from vllm import EngineArgs
    from vllm.config import set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.model_executor.model_loader import get_model
    from vllm.multimodal import MULTIMODAL_REGISTRY

    config: Any = EngineArgs(
        model=str(folder / "export"), trust_remote_code=True, dtype="float32", enforce_eager=True, max_model_len=1024
    ).create_engine_config()
    with set_current_vllm_config(config):
        init_distributed_environment(1, 0, "env://", 0, backend="gloo")
        initialize_model_parallel(1, 1)
        model: Any = get_model(vllm_config=config)
    processor = MULTIMODAL_REGISTRY.create_processor(config.model_config)
    ours = load_file(folder / "entries.safetensors")
    worst, counts = 0.0, []
    for number in range(len(ours)):
        picture = Image.open(folder / f"{number}.png").convert("RGB")
        found, tokens = _embedded(model, processor, picture)
        counts.append(tokens)
        expected = ours[f"{number}"]
        assert found.shape == expected.shape, f"{tuple(found.shape)} embeddings, ours are {tuple(expected.shape)}"
        worst = max(worst, (found - expected).abs().max().item())
    return {"class": type(model).__name__, "tokens": counts, "difference": worst, "torch": torch.__version__}


def _embedded(model: Any, processor: Any, picture: Any) -> tuple[Any, int]:
    """Embeddings (N, D) of a picture, and how many places the processor made for them."""
    import torch
    from vllm.multimodal.utils import group_and_batch_mm_kwargs

    text = f"{processor.dummy_inputs.get_dummy_text({'image': 1})} How many ships?"
    found = processor(text, processor.info.parse_mm_data({"image": [picture]}))
    [place] = found["mm_placeholders"]["image"]
    kwargs = [("image", item) for item in found["mm_kwargs"]["image"]]
    [(_, _, batched)] = group_and_batch_mm_kwargs(kwargs)
    with torch.no_grad():
        [embeddings] = model.embed_multimodal(**batched)
    return embeddings.flatten(0, -2).float(), int(place.get_num_embeds())


def judged(python: Path, export: dict[str, Any]) -> dict[str, Any]:
    """What vLLM made of one export; `refused` holds the end of what it said where it took it not."""
    surroundings = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [str(python), str(Path(__file__).resolve()), str(python.parent.parent), "--inside", export["folder"]]
    ended = subprocess.run(command, capture_output=True, text=True, env=surroundings, check=False)
    if ended.returncode:
        return export | {"refused": ended.stderr.strip()[-1500:]}
    return export | json.loads(ended.stdout.strip().splitlines()[-1])


def passes(result: dict[str, Any]) -> bool:
    """Whether an export was taken, and embeddings are ours."""
    return "refused" not in result and result["difference"] <= TOLERANCE


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("environment", type=Path, help="folder of vLLM's environment")
    parser.add_argument("--folder", type=Path, help="where the exports are written, anew; default: ENVIRONMENT/exports")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(inside(arguments.inside)))
        return 0
    python = prepared(arguments.environment.resolve())
    folder = (arguments.folder or arguments.environment / "exports").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    results = []
    for export in written(folder):
        results.append(judged(python, export))
        print(json.dumps(results[-1]), flush=True)
    good = all(map(passes, results))
    print(json.dumps({"vllm": VLLM, "python": sys.version.split()[0], "passes": good, "exports": results}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

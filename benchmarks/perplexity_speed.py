"""Perplexity of captions: our scorer beside a plain loop over transformers, on the same weights and the same machine, in turn.

Workload A: a CLIP ViT of 12 blocks of 384 on 224 px (196 tokens a picture), a Qwen2 of 8 blocks of 512 with 32,000 tokens, random weights; texts of log-normal(4.3, 0.7) words, clipped to 24..480, of
which 20 to 70 % are the caption. Five captions a picture, as caption sets have (RSICD, NWPU, Flickr8k), and POINTS' prompt; the loop takes one (picture, caption) at a time, as POINTS' script does.
"""

from __future__ import annotations

import io
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figure, show
from PIL import Image
from workload_a import TOWER, WORDS, write_model

from sightline.data.scoring import PROMPT, Perplexity, perplexity
from sightline.samples.exchange import Request
from sightline.samples.pictures import describe
from sightline.samples.sample import Origin, Picture, Sample, Show, Text, Turn

TIMES_FASTER = 3.0
PICTURES, CAPTIONS = 6, 5


def _picture(rng: np.random.Generator) -> Picture:
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (224, 224, 3), np.uint8)).save(stream, "PNG")
    return describe(stream.getvalue(), "picture", "bench")


def rows(pictures: int, captions: int, seed: int) -> list[Sample]:
    """Pictures of noise, each with captions of the workload's lengths."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(pictures):
        lengths = np.clip(rng.lognormal(4.3, 0.7, captions), 24, 480) * rng.uniform(0.2, 0.7, captions)
        texts = [" ".join(rng.choice(WORDS, round(length))) for length in lengths]
        first, *others = [(Text(text=text),) for text in texts]
        turns = (Turn(role="user", items=(Show(picture=0),)), Turn(role="assistant", items=first, alternatives=tuple(others)))
        found.append(Sample(id=f"{number:03}", pictures=(_picture(rng),), turns=turns, origin=Origin(source="bench")))
    return found


class Loop:
    """What a script over transformers does: one picture and one caption a forward, log-softmax in float32 over the caption's tokens and its end."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer, LlavaForConditionalGeneration

        self.model = LlavaForConditionalGeneration.from_pretrained(folder, attn_implementation="sdpa").eval()
        self.pictures, self.tokenizer = AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def score(self, picture: Picture, caption: str) -> list[float]:
        """Log-probabilities of one caption's tokens."""
        import torch

        from sightline.model.chat import chat_format

        chat = chat_format("vicuna")
        ids = lambda text: self.tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
        assert isinstance(picture.data, bytes)
        pixels = self.pictures(images=Image.open(io.BytesIO(picture.data)).convert("RGB"), return_tensors="pt")["pixel_values"]
        count = (TOWER["image_size"] // TOWER["patch_size"]) ** 2  # pyright: ignore[reportOperatorIssue]
        end: Any = self.tokenizer.convert_tokens_to_ids(chat.end)
        before = [self.tokenizer.convert_tokens_to_ids(chat.begin), *ids(f"{chat.default_system} USER: ")]
        prompt = [*before, *[self.model.config.image_token_index] * count, *ids(f"\n{PROMPT} ASSISTANT:")]
        told = [*ids(caption), end]
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([prompt + told]), pixel_values=pixels).logits[0, len(prompt) - 1 : -1]
        return logits.float().log_softmax(-1).gather(1, torch.tensor(told)[:, None])[:, 0].tolist()


def _ours(answerer: Any, requests: Sequence[Request]) -> tuple[float, dict[str, float]]:
    start = time.process_time()
    found = {answer.sample: perplexity(answer.logps) for answer in answerer.answer(requests)}
    return time.process_time() - start, found


def _theirs(loop: Loop, requests: Sequence[Request]) -> tuple[float, dict[str, float]]:
    start = time.process_time()
    found = {request.sample.id: perplexity(loop.score(request.sample.pictures[0], request.sample.text(1))) for request in requests}
    return time.process_time() - start, found


def perplexity_speed(repeats: int = 3, pictures: int = PICTURES) -> Iterator[Figure]:
    """Ratio of captions per CPU second, which other work on the machine does not change, ours over theirs, in turn; with five captions a picture and with one."""
    from sightline.evaluate.scoring_answers import TextScorer
    from sightline.model import directory

    operator = Perplexity(**{"with": "bench"})  # pyright: ignore[reportArgumentType]
    with tempfile.TemporaryDirectory() as scratch:
        ours, theirs = write_model(Path(scratch), texts=[PROMPT])
        loaded, loop = directory.load(ours), Loop(theirs)
        worst = 0.0
        for captions, count in ((CAPTIONS, pictures), (1, CAPTIONS * pictures // 2)):
            ratios, rates = [], []
            for seed in range(repeats):
                requests = [request for row in rows(count, captions, seed) for request in operator.ask(row, np.random.default_rng(0))]
                seconds, found = _ours(TextScorer(*loaded), requests)
                other, expected = _theirs(loop, requests)
                ratios.append(other / seconds)
                rates.append(len(requests) / seconds)
                worst = max([worst, *(abs(math.log(found[name] / expected[name])) for name in expected)])
                assert found.keys() == expected.keys()
            bar = TIMES_FASTER if captions == CAPTIONS else None
            beside = f"{np.median(rates):.3g} captions per CPU second; {captions} a picture; over a loop of single forwards of transformers"
            yield Figure(name=f"perplexity speed, {captions} captions", values=tuple(ratios), unit="times", least=bar, note=beside)
        yield Figure(
            name="perplexity difference", values=(worst,), most=1e-4, take="largest", note="largest |log ratio| of a caption's perplexity to the loop's"
        )


if __name__ == "__main__":
    sys.exit(int(any(not figure.passed for figure in show(perplexity_speed()))))

"""An answerer that knows what is there: whatever is wrong in the end is then the fault of windows and merging, and of no model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sightline.data.tiling_annotations import Nearby, Window, parts_of
from sightline.lineage import sha256_json
from sightline.samples.codecs import Codec, regions_in, text_of
from sightline.samples.exchange import Answer, Request
from sightline.samples.frames import frame_of
from sightline.samples.sample import Region, Regions, Sample


class Oracle:
    """Names the true regions of a scene as a person would who sees one window alone: what its edge cuts off is gone, in the numbers of a codec."""

    def __init__(self, truth: Sequence[Region], codec: Codec) -> None:
        """`truth`: rotated boxes in px of the scene."""
        self._near, self._codec = {label: Nearby([one for one in truth if one.label == label]) for label in {one.label for one in truth}}, codec
        self.asked = 0
        """Questions that were answered."""

    def measure(self, sample: Sample) -> int:
        """Words of the question."""
        return len(sample.text(len(sample.turns) - 1).split())

    def key(self, request: Request) -> str:
        """The name under which the answer is found again: of one place and label."""
        return sha256_json(dict(request.sample.attributes))

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Each request once, in order."""
        for request in requests:
            self.asked += 1
            said, picture = request.sample.attributes, request.sample.pictures[0]
            window = Window(left=said["left"], top=said["up"], width=picture.width, height=picture.height, rate=said["rate"])
            near = self._near.get(said["label"])
            found = [] if near is None else [part for region in near.at(window) for part in parts_of(region, window, 1.0)]
            frame = frame_of(self._codec.frame, picture.width, picture.height)
            texts = [text_of(self._codec.render(Regions(regions=(part,)), frame)) for part in found]
            text = ", ".join(texts) or "none"
            items, problems = self._codec.parse(text, frame) if regions_in(self._codec.parse(text, frame)[0]) else ((), ())
            yield Answer(
                key=self.key(request), sample=request.sample.id, weights="oracle", text=text, items=tuple(items), problems=tuple(problems), logps=(0.0,)
            )

"""Messages of a request as a Sample, with its pictures fetched and decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sightline.errors import Problem, Refused
from sightline.samples.sample import Film, Item, Origin, Picture, Sample, Show, Text, Turn
from sightline.serve.jobs import Declined
from sightline.serve.media import Media
from sightline.serve.protocol import ImagePart, Message, TextPart, VideoPart


def _declined(code: str, place: str, found: str, allowed: str, fix: str) -> Declined:
    return Declined(400, Problem(code=f"serve/{code}", place=place, found=found, allowed=allowed, fix=fix))


def sample_of(messages: Sequence[Message], media: Media, name: str) -> Sample:
    """The sample that a request's messages are; its last turn is the user's. Waits for hosts and decoding: call it outside of the event loop. Raises Declined."""
    taken = _Pictures(media)
    turns = []
    for number, message in enumerate(messages):
        role = "system" if message.role == "developer" else message.role
        turns.append(Turn(role=role, items=_items(message, number, taken)))
    sample = Sample(id=name, pictures=tuple(taken.pictures), turns=tuple(turns), origin=Origin(source="request", row=name))
    problems = sample.problems("messages")
    if problems:
        raise Declined(400, problems[0])
    if turns[-1].role != "user":
        raise _declined("last-message", "messages", f"the last message is the {turns[-1].role}'s", "a user's message at the end", "end with the question")
    return sample


def addressed(messages: Sequence[Message]) -> Iterator[tuple[str, str]]:
    """URL and place of every picture of a request, in order."""
    for number, message in enumerate(messages):
        for part, told in enumerate(message.content if isinstance(message.content, list) else ()):
            place = _place(number, part)
            if isinstance(told, ImagePart):
                yield told.image_url.url, place
            elif isinstance(told, VideoPart):
                url = told.video_url.url
                yield from [(url, place)] if isinstance(url, str) else [(one, f"{place}.url[{frame}]") for frame, one in enumerate(url)]


def _place(message: int, part: int) -> str:
    return f"messages[{message}].content[{part}]"


@dataclass
class _Pictures:
    """Pictures of a request as they are met; equal URLs are one picture."""

    media: Media
    pictures: list[Picture] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)

    def one(self, url: str, place: str) -> int:
        if url not in self.known:
            self.room(place)
            self.known[url] = len(self.pictures)
            self.pictures.append(self.media.picture(url, place))
        return self.known[url]

    def room(self, place: str) -> int:
        """Pictures that may still come."""
        most = self.media.limits.images_per_prompt
        if len(self.pictures) >= most:
            raise _declined("too-many-pictures", place, f"more than {most} pictures", f"at most {most} a request", "show fewer")
        return most - len(self.pictures)


def _items(message: Message, number: int, taken: _Pictures) -> tuple[Item, ...]:
    if isinstance(message.content, str):
        return (Text(text=message.content),)
    items: list[Item] = []
    for count, part in enumerate(message.content):
        where = _place(number, count)
        if isinstance(part, TextPart):
            items.append(Text(text=part.text))
        elif message.role != "user":
            raise _declined("picture-role", where, f"a picture in a message of role {message.role}", "pictures in user messages", "move it there")
        elif isinstance(part, ImagePart):
            items.append(Show(picture=taken.one(part.image_url.url, where)))
        else:
            items.append(_film(part, where, taken))
    return tuple(items)


def _film(part: VideoPart, place: str, taken: _Pictures) -> Film:
    told = part.video_url
    if isinstance(told.url, list):
        numbers = [taken.one(url, f"{place}.url[{frame}]") for frame, url in enumerate(told.url)]
        return Film(pictures=tuple(numbers), times=tuple(frame / told.fps for frame in range(len(numbers))))
    pictures, times = taken.media.film(told.url, place, taken.room(place))
    first = len(taken.pictures)
    taken.pictures += pictures
    return Film(pictures=tuple(range(first, first + len(pictures))), times=tuple(times))


def refused(problems: Refused) -> Declined:
    """What a model says about a request that it cannot take."""
    return Declined(400, problems.problems[0])

"""Requests as the OpenAI API has them, with the fields that vLLM adds. What is not known is refused by name: a field that is dropped without a word changes answers without a word."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

NAME = Field(max_length=400)
OPTIONAL_NAME = Field(default=None, max_length=400)
TEXT = 4 << 20
"""Characters of one text, at most."""


def _whole(value: Any) -> Any:
    """55.0 is a whole number in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
Choices = Annotated[int, Field(ge=1, le=128), BeforeValidator(_whole)]
Likeliest = Annotated[int, Field(ge=0, le=20), BeforeValidator(_whole)]
Seed = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63), BeforeValidator(_whole)]
Among = Annotated[int, Field(ge=1, le=1000), BeforeValidator(_whole)]
"""Bounds stand inside: beside `| None` they would be checked and not described."""


class Body(BaseModel):
    """What all bodies have in common."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Url(Body):
    """Where a picture or a film is."""

    url: str = Field(min_length=1)
    """data: or http(s)."""
    detail: Literal["auto", "low", "high"] = "auto"
    """Taken for the sake of clients: how a picture is cut up is the model's own matter."""


class TextPart(Body):
    """Words."""

    type: Literal["text"]
    text: str = Field(max_length=TEXT)


class ImagePart(Body):
    """A picture, at its place among the words."""

    type: Literal["image_url"]
    image_url: Url
    uuid: str | None = OPTIONAL_NAME


class VideoUrl(Body):
    """Frames of a film."""

    url: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1)]
    """A data: URL of an animated GIF or WebP, or one URL a frame."""
    fps: float = Field(default=1.0, gt=0, le=1000)
    """Frames a second, where `url` is a list."""


class VideoPart(Body):
    """A film, at its place among the words."""

    type: Literal["video_url"]
    video_url: VideoUrl


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]
Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[Part], Tag("parts")], Discriminator(lambda content: "parts" if isinstance(content, list) else "text")
]
"""A text, or parts; what is wrong with parts is told of parts alone."""


class Message(Body):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: str | None = OPTIONAL_NAME


class StreamOptions(Body):
    """What a stream also tells."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class JsonSchema(Body):
    """A schema by name."""

    name: str = NAME
    description: str | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None
    """Taken for the sake of clients: an answer is always held to the schema."""


class ResponseFormat(Body):
    """What an answer must look like: any JSON object, JSON that is valid by a schema (the subset in docs/serving.md), or `regions`, which is ours: the grammar of the model's region codec."""

    type: Literal["text", "json_object", "json_schema", "regions"] = "text"
    json_schema: JsonSchema | None = None


class Drawing(Body):
    """How tokens are drawn; fields that chat and completion share."""

    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Absent: 0, the likeliest token."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    n: Choices | None = None
    seed: Seed | None = None
    stop: str | Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class ChatRequest(Drawing):
    """Body of /v1/chat/completions."""

    model: str = NAME
    messages: list[Message] = Field(min_length=1, max_length=1000)
    logprobs: bool | None = None
    top_logprobs: Likeliest | None = None
    response_format: ResponseFormat | None = None
    frequency_penalty: float | None = Field(default=None, ge=0, le=0)
    """0 alone: answers are not bent away from what they said."""
    presence_penalty: float | None = Field(default=None, ge=0, le=0)
    user: str | None = OPTIONAL_NAME
    """Whose turn it is where several people share a key."""
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    """Nothing is stored."""


class EmbeddingRequest(Body):
    """Body of /v1/embeddings: texts, or messages that hold one text or one picture."""

    model: str = NAME
    input: str | Annotated[list[str], Field(min_length=1, max_length=256)] | None = None
    messages: list[Message] | None = Field(default=None, max_length=1)
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = OPTIONAL_NAME


class TilesRequest(Body):
    """Body of /v1/tiles: one picture."""

    image_url: Url
    among: Among = 1
    """Pictures of the request that it is part of, for tilers that share a budget."""


class TokenizeRequest(Body):
    """Body of /tokenize: a text, or messages as a chat would have them."""

    model: str | None = OPTIONAL_NAME
    prompt: str | None = Field(default=None, max_length=TEXT)
    messages: list[Message] | None = Field(default=None, min_length=1, max_length=1000)

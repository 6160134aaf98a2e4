"""Pictures of requests: data: URLs, and http(s) from allowed hosts. All of it is hostile until checked.

What a URL names is never a file of this machine. A host is looked up once, all its addresses are checked, and the connection goes to the address that was checked: a name that changes its address between (DNS
rebinding) gains nothing. Every redirect is a new URL and is checked like the first.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import io
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

from sightline.errors import Problem, Refused
from sightline.samples.pictures import describe, open_picture
from sightline.samples.sample import Picture
from sightline.serve.jobs import Declined
from sightline.serve.settings import MediaLimits

REDIRECTS = 3
FILM_PICTURES = 4
"""Largest pictures whose pixels all frames of a film may have together."""
TYPES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/jpg": "JPEG", "image/webp": "WEBP", "image/gif": "GIF", "image/bmp": "BMP", "image/tiff": "TIFF"}
_DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[\w.+-]+)*)(;base64)?,", re.IGNORECASE)
Resolver = Callable[[str, int], list[str]]


def _declined(status: int, code: str, place: str, found: str, allowed: str, fix: str) -> Declined:
    return Declined(status, Problem(code=f"serve/{code}", place=place, found=found, allowed=allowed, fix=fix))


def _scheme(url: str) -> str:
    return url[:8].partition(":")[0].lower()


def addresses(host: str, port: int) -> list[str]:
    """Numeric addresses of a host."""
    return list(dict.fromkeys(str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


@dataclass(frozen=True, kw_only=True)
class Media:
    """Reads pictures within limits. Everything here waits for others: call it outside of the event loop."""

    limits: MediaLimits
    resolve: Resolver = addresses
    known: Mapping[str, bytes] = field(default_factory=dict)
    """Pictures of other hosts that are here already, by URL."""

    def fetched(self, urls: Iterable[tuple[str, str]]) -> Media:
        """The same with the pictures of these (URL, place) at hand that other hosts have, as many as a request may show. Waits for hosts alone and decodes nothing. Raises Declined."""
        places = {url: place for url, place in urls if _scheme(url) in ("http", "https")}
        return replace(self, known={url: self._fetched(url, places[url]) for url in [*places][: self.limits.images_per_prompt]}) if places else self

    def picture(self, url: str, place: str) -> Picture:
        """The picture of an `image_url`, decoded once. Raises Declined."""
        data = self._bytes(url, place)
        try:
            opened = open_picture(data, place)
            if opened.width * opened.height > self.limits.max_image_pixels:
                found, allowed = f"{opened.width}x{opened.height} px", f"at most {self.limits.max_image_pixels} px"
                raise _declined(400, "picture-too-large", place, found, allowed, "send a smaller picture")
            if getattr(opened, "n_frames", 1) > 1 and opened.format != "MPO":
                found = f"{opened.format} of {opened.n_frames} frames"  # pyright: ignore[reportAttributeAccessIssue]
                raise _declined(400, "animated-picture", place, found, "one frame", "send the frames as pictures, or as a video_url part")
            return describe(data, "", place)
        except Refused as refused:
            raise Declined(400, refused.problems[0]) from None

    def film(self, url: str, place: str, most: int) -> tuple[list[Picture], list[float]]:
        """Frames of an animated GIF or WebP, at most so many and evenly spread, and their times in s."""
        data = self._bytes(url, place)
        try:
            opened = open_picture(data, place)
            frames = getattr(opened, "n_frames", 1)
            if frames * opened.width * opened.height > FILM_PICTURES * self.limits.max_image_pixels:
                found, allowed = (
                    f"{frames} frames of {opened.width}x{opened.height} px",
                    f"at most {FILM_PICTURES * self.limits.max_image_pixels} px in all frames",
                )
                raise _declined(400, "film-too-large", place, found, allowed, "send fewer or smaller frames")
            chosen = sorted({round(number * (frames - 1) / max(1, most - 1)) for number in range(min(most, frames))})
            pictures, times, now = [], [], 0.0
            for number in range(frames):
                opened.seek(number)
                if number in chosen:
                    stream = io.BytesIO()
                    opened.convert("RGB").save(stream, "PNG", compress_level=1)
                    pictures.append(describe(stream.getvalue(), "", f"{place}, frame {number}"))
                    times.append(now)
                now += float(opened.info.get("duration", 100)) / 1000
            return pictures, times
        except Refused as refused:
            raise Declined(400, refused.problems[0]) from None
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise _declined(400, "broken-film", place, str(error), "frames that decode", "send the frames as a list of pictures") from None

    def _bytes(self, url: str, place: str) -> bytes:
        scheme = _scheme(url)
        if url in self.known:
            return self.known[url]
        if scheme == "data":
            return self._inside(url, place)
        if scheme in ("http", "https"):
            return self._fetched(url, place)
        raise _declined(400, "url-scheme", place, f"{url[:60]!r}", "data: URLs, or http(s) from allowed hosts", "send the picture as data:image/png;base64,...")

    def _inside(self, url: str, place: str) -> bytes:
        head = _DATA.match(url[:400])
        if head is None:
            raise _declined(400, "data-url", place, f"{url[:60]!r}", "data:image/png;base64,...", "correct the URL")
        kind = (head[1] or "text/plain").lower()
        if kind not in TYPES:
            raise _declined(400, "media-type", place, kind, ", ".join(sorted(set(TYPES.values()))), "send it as PNG or JPEG")
        rest = url[head.end() :]
        if len(rest) > self.limits.max_media_bytes * 4 // 3 + 4:
            raise self._too_many_bytes(place, 413)
        try:
            data = base64.b64decode(rest, validate=True) if head[3] else unquote_to_bytes(rest)
        except (binascii.Error, ValueError) as error:
            raise _declined(400, "base64", place, str(error), "base64 without spaces or line breaks", "encode the picture's bytes again") from None
        return self._as_told(data, kind, place)

    def _as_told(self, data: bytes, kind: str, place: str) -> bytes:
        """The bytes, if they are of the type that they are said to be."""
        try:
            found = open_picture(data, place).format
        except Refused as refused:
            raise Declined(400, refused.problems[0]) from None
        found = "JPEG" if found == "MPO" else found
        if found != TYPES[kind]:
            raise _declined(400, "media-type", place, f"{found} that is said to be {kind}", "the type that the bytes have", f"say image/{str(found).lower()}")
        return data

    def _too_many_bytes(self, place: str, status: int) -> Declined:
        return _declined(status, "picture-too-large", place, "too many bytes", f"at most {self.limits.max_media_bytes} bytes", "send a smaller picture")

    def _fetched(self, url: str, place: str) -> bytes:
        ends = time.monotonic() + self.limits.fetch_timeout
        for _ in range(REDIRECTS + 1):
            status, headers, data = self._get(url, place, ends)
            if status in (301, 302, 303, 307, 308) and headers.get("location"):
                url = urljoin(url, headers["location"])
                if urlsplit(url).scheme not in ("http", "https"):
                    raise _declined(400, "url-redirect", place, f"a redirect to {url[:60]!r}", "http(s) from allowed hosts", "name the picture itself")
                continue
            if status != 200:
                raise _declined(422, "fetch", place, f"the host answers {status}", "200", "check the URL, or send the picture inside the request")
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind not in TYPES:
                raise _declined(400, "media-type", place, kind or "no type", ", ".join(sorted(set(TYPES.values()))), "name a picture")
            return self._as_told(data, kind, place)
        raise _declined(400, "url-redirect", place, f"more than {REDIRECTS} redirects", f"at most {REDIRECTS}", "name the picture itself")

    def _checked(self, url: str, place: str) -> tuple[str, str, int, str]:
        """Scheme, host, port, and the one address to connect to."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip(".").lower(), parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise _declined(400, "url", place, str(error), "http(s)://HOST/PATH", "correct the URL") from None
        allowed = self.limits.allowed_media_domains
        if parts.username is not None or not host or host not in allowed:
            told = ", ".join(allowed) or "none: this server takes pictures inside the request alone"
            raise _declined(400, "media-domain", place, host or f"{url[:60]!r}", told, "send the picture as data:image/png;base64,...")
        try:
            found = self.resolve(host, port)
        except OSError as error:
            raise _declined(422, "fetch", place, f"{host}: {error}", "a host that is found", "check the URL") from None
        private = [one for one in found if not _public(one)]
        if not found or (private and not self.limits.allow_private):
            raise _declined(400, "private-address", place, f"{host} is at a private address", "public addresses", "send the picture inside the request")
        return parts.scheme, host, port, found[0]

    def _get(self, url: str, place: str, ends: float) -> tuple[int, dict[str, str], bytes]:
        scheme, host, port, address = self._checked(url, place)
        left = lambda: max(0.01, ends - time.monotonic())  # noqa: E731
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = http.client.HTTPConnection(host, port, timeout=left())
        try:
            plain = socket.create_connection((address, port), timeout=left())
            spoken = ssl.create_default_context().wrap_socket(plain, server_hostname=host) if scheme == "https" else plain
            connection.sock = spoken
            shown = host if port in (80, 443) else f"{host}:{port}"
            connection.request("GET", target.replace(" ", "%20"), headers={"Host": shown, "Accept": "image/*", "User-Agent": "sightline"})
            reply = connection.getresponse()
            headers = {name.lower(): value for name, value in reply.getheaders()}
            data = bytearray()
            while chunk := reply.read1(1 << 16):
                data += chunk
                if len(data) > self.limits.max_media_bytes:
                    raise self._too_many_bytes(place, 422)
                if time.monotonic() > ends:
                    raise TimeoutError("the host is too slow")
                spoken.settimeout(left())
            return reply.status, headers, bytes(data)
        except (OSError, http.client.HTTPException, ValueError) as error:
            found = f"{host}: {type(error).__name__}: {error}"
            raise _declined(422, "fetch", place, found, f"a picture within {self.limits.fetch_timeout} s", "send the picture inside the request") from None
        finally:
            connection.close()


def _public(address: str) -> bool:
    """Whether an address is one of the public network: neither of this machine nor of networks around it, also not wrapped in an IPv6 address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is None and found in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.ip_address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return _public(str(inner))
    return found.is_global and not found.is_multicast

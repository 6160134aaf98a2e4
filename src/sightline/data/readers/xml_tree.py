"""XML from strangers as a tree: no document types, so no entities of one's own and nothing fetched; bounded size and depth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from sightline.data.readers.files import plain, refuse
from sightline.errors import Refused

LARGEST_XML = 32 << 20
"""Bytes of one annotation file: a hundred thousand objects."""
DEEPEST_XML = 64
"""Elements inside one another."""


class _Hostile(ValueError):
    """Something in a file that annotation files have no use for."""


class _Builder(TreeBuilder):
    """A tree builder that counts how deep it is."""

    depth = 0

    def start(self, tag: str, attrs: Mapping[str, str], /) -> Element:
        self.depth += 1
        if self.depth > DEEPEST_XML:
            raise _Hostile(f"elements nested more than {DEEPEST_XML} deep")
        return super().start(tag, dict(attrs))

    def end(self, tag: str, /) -> Element:
        self.depth -= 1
        return super().end(tag)


def _no_document_type(name: str, *_: object) -> NoReturn:
    raise _Hostile(f"a document type <!DOCTYPE {name[:40]}>, which can define entities")


def read_xml(path: Path) -> Element:
    """The root element of an XML file. Refused when it is not there, too large, not well-formed, or has a document type."""
    plain(path, most=LARGEST_XML)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Refused(refuse("unreadable-file", str(path), error.strerror or str(error), "a readable file", "correct the path")) from None
    return parse_xml(data, str(path))


def parse_xml(data: bytes, place: str) -> Element:
    """The root element of an XML text. Refused as in `read_xml`."""
    builder, parser = _Builder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = builder.start, builder.end, builder.data
    parser.StartDoctypeDeclHandler = _no_document_type
    try:
        parser.Parse(data, True)
        return builder.close()
    except _Hostile as error:
        raise Refused(refuse("hostile-xml", place, str(error), "plain elements and text", "remove it from the file; nothing of it was read")) from None
    except expat.ExpatError as error:
        raise Refused(refuse("not-xml", f"{place}:{error.lineno}", str(error), "a well-formed XML file", "mend the file at this place")) from None
    except (ValueError, LookupError) as error:  # an encoding that the declaration names and Python does not decode
        raise Refused(refuse("not-xml", place, str(error), "XML in UTF-8", "save the file as UTF-8")) from None

"""An XMP packet with a caption and tags in it: made, or changed with all else that it holds left as it is.

XMP specification part 1: dc:description is a list of alternatives by language, dc:subject an unordered list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from xml.dom import minidom
from xml.parsers.expat import ExpatError

_DC = "http://purl.org/dc/elements/1.1/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_EMPTY = (
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">'
    f'<rdf:Description rdf:about="" xmlns:dc="{_DC}"/></rdf:RDF></x:xmpmeta>'
)
_PACKET = re.compile(rb"<x:xmpmeta\b.*?</x:xmpmeta>|<rdf:RDF\b.*?</rdf:RDF>", re.DOTALL)
_UNSPEAKABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 cannot hold


class BadPacket(ValueError):
    """The packet that is there cannot be read, so it cannot be changed either."""


def find_packet(data: bytes) -> bytes | None:
    """The first packet that lies uncompressed in a file of any format."""
    found = _PACKET.search(data)
    return found[0] if found else None


def caption_of(packet: bytes) -> str:
    """Its dc:description, "" for none. Raises BadPacket."""
    return next(_items(_parse(packet), "description"), "")


def tags_of(packet: bytes) -> list[str]:
    """Its dc:subject. Raises BadPacket."""
    return list(_items(_parse(packet), "subject"))


def changed(packet: bytes | None, caption: str | None, tags: Sequence[str]) -> bytes:
    """A packet with this caption in place of its own, unless None, and with these tags among its own.

    Raises BadPacket.
    """
    document = _parse(packet if packet is not None else _EMPTY.encode())
    descriptions = document.getElementsByTagNameNS(_RDF, "Description")
    if not descriptions:
        raise BadPacket
    first = descriptions[0]
    if caption is not None:
        _remove(descriptions, "description")
        _add(document, first, "description", "Alt", [caption])
    if tags:
        both = list(dict.fromkeys([*_items(document, "subject"), *tags]))
        _remove(descriptions, "subject")
        _add(document, first, "subject", "Bag", both)
    body = document.documentElement
    assert body is not None
    head = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    return f'{head}\n{body.toxml()}\n<?xpacket end="w"?>'.encode()


def _parse(packet: bytes) -> minidom.Document:
    found = _PACKET.search(packet)
    if found is None or b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:
        raise BadPacket
    try:
        return minidom.parseString(found[0].decode("utf-8").encode())
    except (ExpatError, ValueError):
        raise BadPacket from None


def _items(document: minidom.Document, name: str) -> Iterator[str]:
    for element in document.getElementsByTagNameNS(_DC, name):
        for item in element.getElementsByTagNameNS(_RDF, "li"):
            yield "".join(node.data for node in item.childNodes if isinstance(node, minidom.Text))
    for element in document.getElementsByTagNameNS(_RDF, "Description"):
        if element.hasAttributeNS(_DC, name):
            yield element.getAttributeNS(_DC, name)


def _remove(descriptions: Sequence[minidom.Element], name: str) -> None:
    for description in descriptions:
        if description.hasAttributeNS(_DC, name):
            description.removeAttributeNS(_DC, name)
        for element in description.getElementsByTagNameNS(_DC, name):
            if element.parentNode is description:
                description.removeChild(element)


def _add(document: minidom.Document, where: minidom.Element, name: str, kind: str, values: Sequence[str]) -> None:
    """Declares its two prefixes itself: those of the packet may be others."""
    element = document.createElementNS(_DC, f"dc:{name}")
    element.setAttribute("xmlns:dc", _DC)
    container = document.createElementNS(_RDF, f"rdf:{kind}")
    container.setAttribute("xmlns:rdf", _RDF)
    for value in values:
        item = document.createElementNS(_RDF, "rdf:li")
        if kind == "Alt":
            item.setAttribute("xml:lang", "x-default")
        item.appendChild(document.createTextNode(_UNSPEAKABLE.sub("", value)))
        container.appendChild(item)
    element.appendChild(container)
    where.appendChild(element)

"""The elements of a DICOM header that is written as the standard says, in a fifth of the time that pydicom takes.

It walks over the elements from their lengths. Whatever is unusual (order, encodings, lengths, value representations,
text that is not ASCII) is left to pydicom, with which it must agree: it answers only where both read the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from struct import Struct
from struct import error as TooShort

from pydicom.datadict import dictionary_VR, tag_for_keyword

Value = str | int | float | list[str]

META, DATASET = range(0x00020000, 0x00030000), range(0x00080000, 0x7FE00008)
PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
SYNTAX, CHARACTERS = 0x00020010, 0x00080005
ITEM, END_OF_ITEM, END_OF_SEQUENCE = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
IMPLICIT = "1.2.840.10008.1.2"
UNUSUAL = ("1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
"""Big-endian and deflated; all other syntaxes of the standard are explicit and little-endian."""
SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""Value representations whose length has four bytes."""
NUMBERS = {b"US": Struct("<H"), b"FL": Struct("<f")}
ASCII_TOO = re.compile(rb"(ISO_IR (6|100|101|109|110|126|127|138|144|148|166|192))? *")
"""Character sets in which ASCII bytes are ASCII characters."""
PARTS = {
    b"IS": re.compile(r" *[+-]?\d{1,10} *"),
    b"DS": re.compile(r" *[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})? *"),
}
_TAG = Struct("<HH")
_IMPLICIT = Struct("<HHL")
_EXPLICIT = Struct("<HH2sH")
_LENGTH = Struct("<L")
_DEPTH = 16


class _Unusual(Exception):
    """To be read by pydicom."""


def wanted(keywords: Sequence[str]) -> dict[int, tuple[str, bytes]]:
    """Keyword and value representation of each tag."""
    tags = {int(tag_for_keyword(keyword) or 0): keyword for keyword in keywords}
    return {tag: (keyword, dictionary_VR(tag).encode()) for tag, keyword in tags.items()}


def plain_header(head: bytes, whole: bool, wants: dict[int, tuple[str, bytes]]) -> tuple[str, dict[str, Value]] | None:
    """Transfer syntax, and the wanted elements by keyword, without empty ones; None where pydicom must read.

    ``head``: the first bytes of a file, ``whole`` if they are all. Numbers as text (IS, DS) stay text; several values
    are a list.
    """
    try:
        return _read(head, whole, wants)
    except (_Unusual, TooShort, KeyError):
        return None


def _read(head: bytes, whole: bool, wants: dict[int, tuple[str, bytes]]) -> tuple[str, dict[str, Value]]:
    if head[128:132] != b"DICM" or head[132:140] != b"\2\0\0\0UL\4\0":
        raise _Unusual
    found, at = _walk(head, 132, False, {SYNTAX: ("", b"UI")}, META)
    syntax = _value(found[SYNTAX][1], b"UI")
    if not isinstance(syntax, str) or not syntax.startswith(IMPLICIT) or syntax in UNUSUAL:
        raise _Unusual
    implicit = syntax == IMPLICIT
    if implicit and all(0x40 < byte < 0x5B for byte in head[at + 4 : at + 6]):
        raise _Unusual  # perhaps explicit, whatever its syntax is
    found, end = _walk(head, at, implicit, wants | {CHARACTERS: ("", b"CS")}, DATASET)
    if not whole if end == len(head) else _tag(head, end) not in PIXELS:
        raise _Unusual
    if end < len(head):
        _element(head, end, implicit)  # pydicom looks at it too
    if not ASCII_TOO.fullmatch(found.pop(CHARACTERS, ("", b""))[1]):
        raise _Unusual
    values = {keyword: _value(data, wants[tag][1]) for tag, (keyword, data) in found.items()}
    return syntax, {keyword: value for keyword, value in values.items() if value != ""}


def _walk(
    data: bytes, at: int, implicit: bool, wants: dict[int, tuple[str, bytes]], tags: range
) -> tuple[dict[int, tuple[str, bytes]], int]:
    """(keyword, bytes) of the wanted elements by tag; and where the walk ended: at the first element that is not in
    ``tags``, which must be in order, or at the end of the data."""
    found: dict[int, tuple[str, bytes]] = {}
    least, stop, size = tags.start, tags.stop, len(data)
    implicit_element, explicit_element = _IMPLICIT.unpack_from, _EXPLICIT.unpack_from
    vr: bytes | None = None
    while at < size:
        # Written out here, and not by _element: most of what a survey computes is this loop.
        if implicit:
            group, element, length = implicit_element(data, at)
        else:
            group, element, vr, length = explicit_element(data, at)
        tag = group << 16 | element
        if tag >= stop:
            return found, at
        if tag < least:
            raise _Unusual
        start = at + 8
        if not implicit and vr not in SHORT:
            length, start = _long(data, at, vr)
        least = tag + 1
        at = start + length if length != UNDEFINED else _after_sequence(data, start, tag, vr, implicit)
        if tag in wants:
            keyword, expected = wants[tag]
            if length == UNDEFINED or (vr is not None and vr != expected):
                raise _Unusual
            found[tag] = keyword, data[start:at]
    if at > size:
        raise _Unusual
    return found, at


def _element(data: bytes, at: int, implicit: bool) -> tuple[bytes | None, int, int]:
    """Value representation and length of the element at ``at``, and where its value starts."""
    if implicit:
        return None, _LENGTH.unpack_from(data, at + 4)[0], at + 8
    _, _, vr, length = _EXPLICIT.unpack_from(data, at)
    return (vr, length, at + 8) if vr in SHORT else (vr, *_long(data, at, vr))


def _long(data: bytes, at: int, vr: bytes | None) -> tuple[int, int]:
    """Length of an element whose length has four bytes, and where its value starts."""
    if vr not in LONG:
        raise _Unusual
    return _LENGTH.unpack_from(data, at + 8)[0], at + 12


def _tag(data: bytes, at: int) -> int:
    group, element = _TAG.unpack_from(data, at)
    return int(group << 16 | element)


def _after_sequence(data: bytes, at: int, tag: int, vr: bytes | None, implicit: bool, depth: int = 0) -> int:
    """Where a sequence of undefined length ends."""
    if depth > _DEPTH or (dictionary_VR(tag).encode() if vr is None else vr) != b"SQ":
        raise _Unusual
    while True:
        tag, length = _tag(data, at), _LENGTH.unpack_from(data, at + 4)[0]
        at += 8
        if tag == END_OF_SEQUENCE and length == 0:
            return at
        if tag != ITEM:
            raise _Unusual
        at = _after_item(data, at, None if length == UNDEFINED else at + length, implicit, depth)


def _after_item(data: bytes, at: int, end: int | None, implicit: bool, depth: int) -> int:
    """Where an item ends: at its delimiter, or at ``end``, where an element must end too."""
    while at != end if end is not None else _tag(data, at) != END_OF_ITEM:
        tag, (vr, length, start) = _tag(data, at), _element(data, at, implicit)
        if tag >> 16 == 0xFFFE or (end is not None and at > end):
            raise _Unusual
        at = _after_sequence(data, start, tag, vr, implicit, depth + 1) if length == UNDEFINED else start + length
    if end is None and _LENGTH.unpack_from(data, at + 4)[0]:
        raise _Unusual
    return at if end is not None else at + 8


def _value(data: bytes, vr: bytes) -> Value:
    """As pydicom converts it; "" where there is none."""
    if vr in NUMBERS:
        number: int | float = NUMBERS[vr].unpack(data)[0]  # TooShort also where there are several
        return number
    if not data.isascii() or b"\x1b" in data or (vr == b"LO" and b"\\" in data):
        raise _Unusual
    parts = data.decode("ascii").rstrip(" \0").split("\\")
    if vr in PARTS and parts != [""] and not all(map(PARTS[vr].fullmatch, parts)):
        raise _Unusual
    return parts[0] if len(parts) == 1 else parts

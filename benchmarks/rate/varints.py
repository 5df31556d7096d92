"""Small numbers in few bytes: seven bits each, the highest bit says that more follow."""

from __future__ import annotations

from collections.abc import Iterable


def varints(numbers: Iterable[int]) -> bytes:
    """Numbers from 0."""
    found = bytearray()
    for number in numbers:
        while number > 127:
            found.append(number & 127 | 128)
            number >>= 7
        found.append(number)
    return bytes(found)


def read_varints(data: bytes, start: int, count: int) -> tuple[list[int], int]:
    """So many numbers, and where they end."""
    numbers = []
    for _ in range(count):
        number, shift = 0, 0
        while data[start] > 127:
            number, shift, start = number | (data[start] & 127) << shift, shift + 7, start + 1
        numbers.append(number | data[start] << shift)
        start += 1
    return numbers, start

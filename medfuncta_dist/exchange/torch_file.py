"""Files of torch.save from strangers: read without executing anything, and within bounds.

Before torch reads a file (``weights_only``), its structure is read with harmless stand-ins for all that it names:
tensors, dictionaries, and what the caller allows. Every tensor must lie within a member of the zip file. Torch
alone would allocate what a file claims, whatever it holds.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import torch

from medfuncta_dist.errors import MedfunctaError

MOST_MEMBERS = 4096
"""A network of a hundred layers has 400 tensors, each a member."""
LARGEST_STRUCTURE = 2**22
"""Bytes of the member that says what the file holds. A tensor takes about 150 of them."""
MEMBER = b"PK\x01\x02"
"""How each entry of a zip file's list of members begins."""
STRUCTURE = "/data.pkl"
NUMBERED = {"PUT", "BINPUT", "LONG_BINPUT"}
"""Operations of a structure that keep an object under a number of their choice."""
REPEATED = re.compile("(STACK_)?GLOBAL|REDUCE|NEWOBJ|EMPTY_.*|.*(UNICODE|STRING|BYTES)[0-9]?")
"""Operations that make what may be named again any number of times: it is a text, or does not hold another by value."""
MOST_REPEATS = 16
"""Of anything else, such as tuples. Files of torch repeat none."""
BYTES = {
    "Double": 8,
    "Float": 4,
    "Half": 2,
    "BFloat16": 2,
    "Long": 8,
    "Int": 4,
    "Short": 2,
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
}
"""Of one number, by the name of its storage in torch."""


class RefusedFileError(MedfunctaError):
    """A file that is not read. ``what`` says why; of the file it quotes names of Python objects only."""


def load(data: bytes, stand_ins: Mapping[str, type] | None = None) -> Any:
    """What torch.save wrote, with tensors on the CPU; none shares its numbers with another, or repeats them.

    Args:
        stand_ins: further objects that the file may name (``module.name``), and the classes to make in their place.

    Raises:
        RefusedFileError: it names anything else, claims more than it holds, is damaged, or is another file.
    """
    others = dict(stand_ins or {})
    _check(data, others)
    try:
        with torch.serialization.safe_globals([(kind, name) for name, kind in others.items()]):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # of torch's readers: each damage has an error of its own
        raise RefusedFileError("it is damaged: torch cannot read it") from error


def _check(data: bytes, others: Mapping[str, type]) -> None:
    if data.count(MEMBER) > MOST_MEMBERS:  # before the library makes an object of each
        raise RefusedFileError(f"it has more than {MOST_MEMBERS} members")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            sizes = _sizes(archive, len(data))
            named = [name for name in sizes if name.count("/") == 1 and name.endswith(STRUCTURE)]
            if len(named) != 1 or sizes[named[0]] > LARGEST_STRUCTURE:
                raise RefusedFileError("torch.save did not write it")
            structure = archive.read(named[0])
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise RefusedFileError("it is no whole zip file, as torch.save writes since 2020") from error
    _Structure(structure, named[0].removesuffix(STRUCTURE), sizes, others).read()


def _sizes(archive: zipfile.ZipFile, most: int) -> dict[str, int]:
    """The size of each member. All are stored as they are, so that together they are no larger than the file."""
    listed = archive.infolist()
    sizes = {member.filename: member.file_size for member in listed}
    if len(sizes) != len(listed):
        raise RefusedFileError("it has two members of one name")
    if any(member.compress_type != zipfile.ZIP_STORED for member in listed) or sum(sizes.values()) > most:
        raise RefusedFileError("its members are compressed, or overlap")
    return sizes


class _Stored(NamedTuple):
    """A storage as the structure describes it, and how many numbers it holds."""

    numbers: int


class _Mapping(dict[Any, Any]):
    """In the place of an OrderedDict, which may have attributes."""


class _Thing:
    """In the place of any object that a caller allows."""

    def __init__(self, *_: object) -> None: ...


class _Structure(pickle.Unpickler):
    """The structure of a file, read with stand-ins: nothing that it names is imported, and nothing is called."""

    def __init__(self, data: bytes, folder: str, sizes: Mapping[str, int], others: Mapping[str, type]) -> None:
        super().__init__(io.BytesIO(data))
        self._data, self._folder, self._sizes, self._others = data, folder, sizes, others

    def read(self) -> None:
        """RefusedFileError for what is not allowed."""
        try:
            _require_small(self._data)
            self.load()
        except (MemoryError, RefusedFileError):
            raise
        except Exception as error:  # a damaged pickle raises whatever its operations do
            raise RefusedFileError("it is damaged: its structure cannot be read") from error

    def find_class(self, module: str, name: str, /) -> Any:
        """A stand-in for an object that the file names."""
        kind = name.removesuffix("Storage")
        if module == "torch" and kind in BYTES and kind != name:
            return kind
        whole = f"{'builtins' if module == '__builtin__' else module}.{name}"  # as Python 2 called it
        known = {
            "collections.OrderedDict": _Mapping,
            "builtins.set": set,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": _first,
        }
        if whole not in known and whole not in self._others:
            _refuse_name(whole)
        return known.get(whole, _Thing)

    def persistent_load(self, pid: Any, /) -> _Stored:
        """A storage: a member of the zip file, of the size that the structure says."""
        if type(pid) is not tuple or len(pid) != 5:
            raise RefusedFileError("it is damaged: it holds something else than numbers")
        what, kind, key, _, numbers = pid
        texts = all(type(one) is str for one in (what, kind, key))  # a tuple of tuples may have a text of gigabytes
        if not texts or what != "storage" or type(numbers) is not int or numbers < 0:
            raise RefusedFileError("it is damaged: it holds something else than numbers")
        if self._sizes.get(f"{self._folder}/data/{key}") != numbers * BYTES[kind]:
            raise RefusedFileError("it claims more numbers, or fewer, than it holds")
        return _Stored(numbers)

    def _tensor(
        self, stored: _Stored, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
    ) -> _Thing:
        if any(type(n) is not int or n < 0 for n in (offset, *shape, *strides)) or len(shape) != len(strides):
            raise RefusedFileError("it is damaged: a tensor has no valid shape")
        expected = [math.prod(shape[at + 1 :]) for at in range(len(shape))]
        if any(n > 1 and stride != step for n, stride, step in zip(shape, strides, expected, strict=True)):
            raise RefusedFileError("it holds a tensor whose numbers do not lie one after the other")
        if offset + math.prod(shape) > stored.numbers:
            raise RefusedFileError("it claims more numbers, or fewer, than it holds")
        return _Thing()


def _require_small(structure: bytes) -> None:
    """Before anything is made of it: the unpickler would allocate gigabytes, or compute for years, for a few bytes.

    ValueError where texts or bytes are said to be longer than the structure. RefusedFileError where an object is kept
    under a number that none of its size needs; where tuples are in tuples again and again, whose hash takes 2^depth.
    """
    kept, before, repeats = dict[int, str](), "", 0
    for operation, argument, _ in pickletools.genops(structure):
        name, number = operation.name, argument if isinstance(argument, int) else -1
        if name in NUMBERED:
            if not 0 <= number <= len(structure):
                raise RefusedFileError("it is damaged: it numbers more objects than it can hold")
            kept[number] = before
        elif name == "MEMOIZE":
            kept[len(kept)] = before
        else:
            before = name
        repeats += name == "DUP" or (name.endswith("GET") and not REPEATED.fullmatch(kept.get(number, "")))
        if repeats > MOST_REPEATS:
            raise RefusedFileError("it repeats parts of itself, which a file of numbers does not need")


def _first(value: Any, *_: object) -> Any:
    if not isinstance(value, _Thing):
        raise RefusedFileError("it holds a parameter that is no tensor")
    return value


def _refuse_name(whole: str) -> NoReturn:
    what = f"it names the Python object {shown(whole)}, which a file of numbers does not need: it may be hostile"
    raise RefusedFileError(what)


def shown(name: str) -> str:
    """A name from a file, for a message: letters, digits and points only."""
    return "".join(letter if letter.isalnum() or letter in "._" else "?" for letter in name[:80])

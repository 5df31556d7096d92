"""What of a line may be stored. Pure.

Our own lines name no scan; what they may name (storage, an archive's URI, a folder) is taken out. Lines of other
software are left out, unless they are warnings, errors or tracebacks. Those lose everything that could name a person:
quoted texts, files, identifiers, dates, and the message of an exception.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from medfuncta_dist.errors import MedfunctaError

LONGEST_LINE = 2000
FRAMES = 25
"""Of a traceback: the innermost ones."""
CHAIN = 4
"""Errors of a chain of causes."""
SHOWN_DIGITS = 10
"""Of a digest or key. `forget` looks for keys that are cut to 12 digits or more: none is in a log."""
SHORTEST_SECRET = 6

_SCANS = "dcm|nii|png|jpe?g|bmp|tiff?|npz|npy|csv|tsv|xlsx?|edf|hea|dat|mgh|mgz|mha|mhd|nrrd|hdr|img|ima|gz|zip"
_SECRET_NAMES = r"secret|token|passw(?:or)?d|api_?key|access_?key|authorization|credential|signature|cookie|salt"
_PATTERNS = (
    (re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+"), "<uri>"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"), "<secret>"),
    (re.compile(r"(?i)\bbearer\s+\S+"), "Bearer <secret>"),
    (re.compile(rf"(?i)([\w-]*(?:{_SECRET_NAMES})[\w-]*['\"]?\s*[=:]\s*)(?!<)\S+"), r"\1<secret>"),
    (re.compile(r"\S+@\S+\.\w+"), "<address>"),
    (re.compile(r"(?<![\w:/.>~-])(?:~|\.{1,2})?/[^\s'\"<>,;:()\[\]]+(?: [^\s'\"<>]*/[^\s'\"<>]*)*"), "<path>"),
    (re.compile(r"\b[A-Za-z]:\\[^\s'\"<>]+"), "<path>"),
    (re.compile(rf"(?i)[^\s'\"<>()=]+\.(?:{_SCANS})\b(?![/\w])"), "<file>"),
    (re.compile(r"\b\d+(?:\.\d+){4,}\b"), "<uid>"),
    (re.compile(r"[^\s'\"]+\^[^\s'\"]*"), "<name>"),
    (re.compile(r"\b(?:19|20)\d\d([-/.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])\b"), "<date>"),
    (re.compile(rf"(?<![0-9a-fA-F])([0-9a-fA-F]{{{SHOWN_DIGITS}}})[0-9a-fA-F]{{2,}}(?![0-9a-fA-F])"), r"\1…"),
)
_FOREIGN = (
    (re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|«[^»]*»|“[^”]*”"), "<text>"),
    (re.compile(r"\S*[^\s<]/[^\s>]\S*"), "<path>"),
    (re.compile(r"\b\d{6,}\b"), "<number>"),
)
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Za-z0-9]|[\x00-\x08\x0b-\x1f\x7f]")
_FRAME = re.compile(r'^\s*File "([^"]+)", line (\d+),? in (<?\w+>?)\s*$')
_EXCEPTION = re.compile(r"^((?:\w+\.)*([A-Z]\w*))(?::|$)")
_CHAINED = re.compile(r"^(?:During handling of the above exception|The above exception was the direct cause)")
_FATAL = re.compile(
    r"^(?:Fatal Python error|Segmentation fault|Bus error|Aborted|Killed|terminate called|Illegal instruction|"
    r"free\(\)|double free|corrupted|Current thread 0x|Thread 0x|\*\*\* SIG)"
)
_LEVEL = re.compile(r"\b(WARNING|WARN|ERROR|CRITICAL|FATAL)\b")
_LETTER = re.compile(r"^(?:\[[\d:., -]+ ([WECF]) \d+ \d+\]|\[?([WECF])\d{4} [\d:.]+)")
_WARNING = re.compile(r"^[^\s:]+:\d+: (\w*Warning): (.*)$")
_OUR_OWN = "medfuncta_dist/telemetry/run_log/"
LEVEL_AT_MOST = 90
"""Characters before a level's name: further on it is a word of the message."""


class Admitted(NamedTuple):
    """A line that may be stored, and how grave it is."""

    level: str
    text: str


@dataclass(frozen=True)
class Scrubber:
    """Takes out of a line what must not be stored. ``root``: the storage's, whose own object names may stay."""

    root: str = ""
    secrets: tuple[str, ...] = ()

    @classmethod
    def of(cls, root: str, environment: Mapping[str, str] = os.environ) -> Scrubber:
        """For a run's storage, and for what this process's environment keeps secret."""
        named = re.compile(rf"(?i){_SECRET_NAMES}|_key$|passphrase")
        values = {value for name, value in environment.items() if named.search(name)}
        return cls(root, tuple(sorted((v for v in values if len(v) >= SHORTEST_SECRET), key=len, reverse=True)))

    def own(self, text: str) -> str:
        """A line that this package wrote."""
        return self._cut(self._patterns(self._known(plain(text))))

    def foreign(self, text: str) -> str:
        """A line that other software wrote."""
        text = self._known(plain(text))
        for pattern, instead in _FOREIGN[:1]:
            text = pattern.sub(instead, text)
        text = self._patterns(text)
        for pattern, instead in _FOREIGN[1:]:
            text = pattern.sub(instead, text)
        return self._cut(text)

    def _known(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "<secret>")
        return text.replace(f"{self.root}/", "storage:").replace(self.root, "storage:") if self.root else text

    @staticmethod
    def _patterns(text: str) -> str:
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        return text

    @staticmethod
    def _cut(text: str) -> str:
        return text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}…"


class ForeignLines:
    """Chooses among the lines of one stream of other software. Of a traceback it keeps the places and the class."""

    def __init__(self, scrubber: Scrubber) -> None:
        self._scrubber, self._in_traceback = scrubber, False
        self.tells_traceback = False
        """Whether the last line that was admitted belongs to one."""

    def admit(self, line: str) -> Admitted | None:
        """What may be stored of the stream's next line; None if nothing."""
        line = plain(line).rstrip()
        self.tells_traceback = True
        if line.startswith("Traceback (most recent call last)"):
            self._in_traceback = True
            return Admitted("error", "Traceback (most recent call last):")
        if place := _FRAME.match(line):
            return Admitted("error", f"  {code_place(place[1], place[2], place[3])}")
        if _CHAINED.match(line):
            return Admitted("error", line.split(",")[0])
        if self._in_traceback:
            return self._end_traceback(line)
        self.tells_traceback = False
        return self._by_level(line)

    def _end_traceback(self, line: str) -> Admitted | None:
        """The class of the exception; its message may name anything. Source lines are left out."""
        if not line or line[0].isspace():
            return None
        self._in_traceback = False
        found = _EXCEPTION.match(line)
        return Admitted("error", found[1] if found else "an exception")

    def _by_level(self, line: str) -> Admitted | None:
        if _FATAL.match(line):
            return Admitted("error", self._scrubber.foreign(line))
        if warned := _WARNING.match(line):
            return Admitted("warning", f"{warned[1]}: {self._scrubber.foreign(warned[2])}")
        found = _LETTER.match(line) or _LEVEL.search(line[:LEVEL_AT_MOST])
        if found is None:
            return None
        name = next(group for group in found.groups() if group)
        return Admitted("warning" if name.startswith("W") else "error", self._scrubber.foreign(line))


def describe_error(error: BaseException, clean: Callable[[str], str]) -> Iterator[str]:
    """An error as lines: ours with what it says, cleaned; any other one as the places in the code, and classes."""
    if isinstance(error, MedfunctaError):
        yield from (clean(line) for line in f"error: {error}".splitlines())
        return
    yield "error: an unexpected error, whose message is left out, as it may name files"
    for each in _chain(error):
        places = [code_place(f.filename, str(f.lineno), f.name) for f in traceback.extract_tb(each.__traceback__)]
        yield from (f"  {place}" for place in places[-FRAMES:] if not place.startswith(_OUR_OWN))
        ours = isinstance(each, MedfunctaError)
        yield clean(f"{type(each).__name__}: {each.what}") if ours else type(each).__name__  # type: ignore[attr-defined]


def plain(text: str) -> str:
    """A text without what moves a terminal's cursor or colours it."""
    return _ANSI.sub("", text)


def code_place(file: str, line: str, function: str) -> str:
    """A place in code, without the folder where it is installed."""
    parts = file.replace("\\", "/").split("/")
    roots = [at for at, part in enumerate(parts) if part in ("site-packages", "dist-packages") or part == "lib"]
    ours = [at for at, part in enumerate(parts) if part == "medfuncta_dist"]
    start = ours[-1] if ours else roots[-1] + 1 if roots else len(parts)
    return f"{'/'.join(parts[start:]) or 'another file'}:{line} in {function}"


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what caused it, the first cause first."""
    found = [error]
    while len(found) < CHAIN:
        last = found[-1]
        cause = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if cause is None or cause in found:
            break
        found.append(cause)
    return found[::-1]

"""Compressed DICOM frames are decoded in a process of their own, one for each process that reads.

GDCM ends the process that it runs in when some frames are damaged (an abort, or a segmentation fault). So the file is
refused and the worker lives on. The other process reads requests, one JSON object per line, from its stdin, and answers
on its stdout with a JSON line, and the bytes of an npy after it. What its libraries print goes nowhere.
"""

from __future__ import annotations

import atexit
import errno
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Lock, Timer
from typing import Any, BinaryIO

import numpy as np
import pydicom

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.dicom.file import opened, read_dataset
from medfuncta_dist.scans.readers.dicom.pixels import decoded
from medfuncta_dist.scans.readers.reader import refusing

PIXELS = "the DICOM file's pixels are damaged"
SECONDS = 300
"""Longest time for one frame. The largest that a header may declare (2**29 values) takes JPEG 2000 about a minute."""
READY = b"ready\n"
CODE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {} import serve; serve()"


class Decoder:
    """The other process, started at the first request; a new one after it ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = Lock()

    def frame(self, path: Path, index: int, frames: int, opened_as: int) -> np.ndarray:
        """One frame as stored (see ``decoded``). ``opened_as``: another number for each time that a file is opened.

        Raises ScanError, also where the other process did not survive the frame.
        """
        request = {"path": str(path), "index": index, "frames": frames, "opened_as": opened_as}
        with self._lock:
            process = self._started()
            timer = Timer(SECONDS, process.kill)
            timer.start()
            try:
                answer, data = _asked(process, request)
            except (OSError, ValueError):
                self.close()
                raise ScanError("the DICOM file's pixels are damaged: their decoder did not survive them") from None
            finally:
                timer.cancel()
        if answer.get("memory"):
            raise MemoryError
        if (number := answer.get("errno")) is not None:
            raise OSError(number, os.strerror(number))
        if (reason := answer.get("refused")) is not None:
            raise ScanError(reason)
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))

    def close(self) -> None:
        """End the other process, if this one started it."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is not None:
            self.close()  # it ended between two frames (out of memory): the next one is not to blame
        if self._process is None or self._owner != os.getpid():
            command = [sys.executable, "-c", CODE.format(__name__), json.dumps(sys.path)]
            pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere)
            assert process.stdout is not None
            self._process, self._owner = process, os.getpid()
            if process.stdout.readline() != READY:
                self.close()
                # Of this machine, not of the file: a file must not be quarantined for it.
                raise OSError(errno.ENOMEM, "the process that decodes compressed DICOM did not start")
        return self._process


def _asked(process: subprocess.Popen[bytes], request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The answer, and the bytes after it. OSError or ValueError if the process ended before it was complete."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    answer: dict[str, Any] = json.loads(process.stdout.readline())
    data = process.stdout.read(answer.get("bytes", 0))
    if len(data) != answer.get("bytes", 0):
        raise ValueError("cut off")
    return answer, data


def serve() -> None:
    """Answer requests until stdin ends, as it does when the parent ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library's words are no answers
    answers.write(READY)
    answers.flush()
    dataset, held = None, None
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if held != request["opened_as"]:
            dataset, held = None, request["opened_as"]
        signal.alarm(SECONDS)  # ends this process, in C code too, also when nobody is left to end it
        answer: dict[str, Any] = {}
        data = b""
        try:
            with refusing(PIXELS):
                dataset = _dataset(Path(request["path"])) if dataset is None else dataset
                data = _npy(decoded(dataset, request["index"], request["frames"]))
            answer = {"bytes": len(data)}
        except ScanError as error:
            answer = {"refused": error.what}
        except MemoryError:
            answer = {"memory": True}
        except OSError as error:  # of this machine
            answer = {"errno": error.errno}
        signal.alarm(0)
        _write(answers, answer, data)


def _dataset(path: Path) -> pydicom.Dataset:
    with opened(path) as file:
        return read_dataset(file)


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _write(answers: BinaryIO, answer: dict[str, Any], data: bytes) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.write(data)
    answers.flush()


DECODER = Decoder()
atexit.register(DECODER.close)

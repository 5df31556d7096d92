"""Layout, limits and lines of a run's log."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.errors import FormatVersionError, IntegrityError
from medfuncta_dist.storage.object_store import ObjectInfo
from medfuncta_dist.telemetry.run_log.log_format import (
    ATTEMPTS_KEPT,
    CHUNK_BYTES,
    CHUNKS_KEPT,
    FIRST_CHUNKS,
    RUN_BYTES,
    LogEntry,
    attempt_name,
    chunk_path,
    end_line,
    entries,
    group_attempts,
    header_line,
    logs_folder,
    parse_chunk,
    rotated_out,
    superseded,
)


def chunk(attempt: int, number: int, size: int = 100) -> ObjectInfo:
    folder = f"{logs_folder('x')}/{attempt_name(attempt, '20261128T101500', 'abcd')}"
    return ObjectInfo(chunk_path(folder, number), size)


def test_a_line_is_read_as_it_was_written():
    written = [
        LogEntry(1.5, "info", "driver", "Grüße", "fit"),
        LogEntry(2.0, "error", "worker", "a", "", 4711, "10.0.0.1", 3),
    ]
    data = header_line({"attempt": 3}, 0) + "".join(line.to_json() for line in written) + end_line(3.0, "done")
    header, lines = parse_chunk(data.encode(), "here")
    assert header["attempt"] == 3
    assert list(entries(lines)) == written
    assert lines[-1] == {"kind": "end", "time": 3.0, "exit": "done"}


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", IntegrityError),
        (b"no JSON\n", IntegrityError),
        (b'{"kind": "line"}\n', IntegrityError),
        (b'{"kind": "header", "format_version": 2}\n', FormatVersionError),
        (b'{"kind": "header", "format_version": 1}\n{"kind": "line", "text": 3}\n', IntegrityError),
    ],
)
def test_a_damaged_chunk_is_refused(data, error):
    with pytest.raises(error):
        parse_chunk(data, "here")


def test_foreign_files_are_no_attempts():
    foreign = [ObjectInfo("runs/x/logs/notes.txt", 5), ObjectInfo("runs/x/logs/._x/00000.jsonl", 5)]
    found = group_attempts([*foreign, chunk(2, 1), chunk(2, 0), chunk(1, 0), ObjectInfo(f"{chunk(1, 0).path}.bak", 1)])
    assert [(attempt.number, len(attempt.chunks)) for attempt in found] == [(1, 1), (2, 2)]


def test_chunks_are_in_the_order_of_their_numbers():
    (found,) = group_attempts([chunk(1, 100_000), chunk(1, 99_999)])
    assert [info.path[-11:] for info in found.chunks] == ["99999.jsonl", "00000.jsonl"]


@given(st.lists(st.integers(1, CHUNKS_KEPT * CHUNK_BYTES), max_size=40))
def test_a_run_keeps_the_newest_attempts_within_its_bounds(sizes):
    attempts = group_attempts(chunk(number, 0, size) for number, size in enumerate(sizes, start=1))
    gone = set(superseded(attempts))
    kept = [attempt for attempt in attempts if attempt.chunks[0].path not in gone]
    assert kept == attempts[len(attempts) - len(kept) :]
    assert len(kept) < ATTEMPTS_KEPT, "with the one that begins, there are as many as are kept"
    assert sum(attempt.size for attempt in kept) + CHUNKS_KEPT * CHUNK_BYTES <= RUN_BYTES
    if len(kept) < min(len(attempts), ATTEMPTS_KEPT - 1):
        wanted = attempts[-len(kept) - 1 :]
        assert sum(attempt.size for attempt in wanted) + CHUNKS_KEPT * CHUNK_BYTES > RUN_BYTES


def test_a_long_log_loses_its_middle():
    kept: set[int] = set()
    for number in range(2 * CHUNKS_KEPT):
        kept.add(number)
        kept.discard(rotated_out(number))
        assert len(kept) <= CHUNKS_KEPT
    assert kept == {*range(FIRST_CHUNKS), *range(CHUNKS_KEPT + FIRST_CHUNKS, 2 * CHUNKS_KEPT)}


def test_a_header_of_every_chunk_says_whose_it_is():
    assert json.loads(header_line({"attempt": 1, "run": "x"}, 7)) == {
        **{"format_version": 1, "kind": "header", "attempt": 1, "run": "x", "chunk": 7}
    }

"""Checks of the archive: whether this machine may list and read what the run file's `data` section names."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import islice

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.data_section import Data, Grouping
from medfuncta_dist.doctor.check import Check, Finding, failed, passed, skipped
from medfuncta_dist.errors import MedfunctaError, RunFileError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.sources import MAGIC, Source, matching

LOOKED_AT = 1000
"""Files of a pattern among which one is looked for that is not empty."""
LIST_S3 = "allow s3:ListBucket on the bucket (with this prefix) to the credentials that this machine uses"
READ_S3 = "allow s3:GetObject on the objects to the credentials that this machine uses (and kms:Decrypt, if encrypted)"
LIST_HERE = "let this user read and enter the folder, and check the path"
READ_HERE = "let this user read the files"


def list_archive_checks(run: RunFile | None) -> list[Check]:
    """A check for each pattern of `data.source` or `data.splits`, masks among them, and for the table."""
    if run is None:
        return []
    checks = [Check(key, partial(check_pattern, pattern)) for key, pattern in _patterns(run.data)]
    table = _table_path(run.data)
    if table is not None:
        checks.append(Check(table[0], partial(check_file, table[1])))
    return checks or [Check("archive", lambda: skipped("the run file names no source"))]


def check_pattern(pattern: str) -> Finding:
    """The pattern's files can be listed, and a byte of the first that is not empty be read.

    What is found says nothing of names: a file's may hold a patient's.
    """
    to_list, to_read = (LIST_S3, READ_S3) if pattern.startswith("s3://") else (LIST_HERE, READ_HERE)
    # S3 does not tell a file that may not be read from one that may not be looked for.
    right, fix = ("list", to_list) if MAGIC.search(pattern) else ("list or read", f"{to_list}; {to_read}")
    listed = _try(right, lambda: _first_sources(pattern), fix)
    if isinstance(listed, Finding):
        return listed
    if not listed[-1].size:
        return passed(f"may be listed: {len(listed)} files were looked at, all of them empty, so none was read")
    read = _try("read", lambda: _read_byte(listed[-1].uri), to_read)
    return read if isinstance(read, Finding) else passed("may be listed and read")


def check_file(uri: str) -> Finding:
    """A byte of a file that is not a scan, such as a table, can be read."""
    read = _try("read", lambda: _read_byte(uri), READ_S3 if uri.startswith("s3://") else READ_HERE)
    return read if isinstance(read, Finding) else passed("may be read")


def _try(right: str, step: Callable[[], list[Source]], fix: str) -> list[Source] | Finding:
    """What the step returns, or the finding that its right is missing. Errors of storage name objects: not repeated."""
    try:
        return step()
    except RunFileError as error:  # no file matches, or the pattern is none
        return failed(f"{right}: {error.what}", error.do)
    except MedfunctaError as error:
        return failed(f"the right to {right} is missing, or it failed: {error.what}", f"{fix}; {error.do}".rstrip("; "))
    except OSError as error:
        return failed(f"the right to {right} is missing, or it failed: {os.strerror(error.errno or 0)}", fix)


def _first_sources(pattern: str) -> list[Source]:
    """Up to the first one that is not empty."""
    found: list[Source] = []
    for source in islice(matching(pattern), LOOKED_AT):
        found.append(source)
        if source.size:
            break
    return found


def _read_byte(uri: str) -> list[Source]:
    if uri.startswith("s3://"):
        parent, _, name = uri.rpartition("/")
        ObjectStore(parent).read_range(name, 0, 1)
    else:
        with open(uri.removeprefix("file://"), "rb") as file:
            file.read(1)
    return []


def _patterns(data: Data) -> list[tuple[str, str]]:
    """Each pattern with the key that names it."""
    given = {"data.source": data.source} if data.splits is None else {}
    given |= {f"data.splits.{name}": patterns for name, patterns in (data.splits or {}).items()}
    found = []
    for key, patterns in given.items():
        if isinstance(patterns, str):
            found.append((key, patterns))
        else:
            found += [(f"{key}[{number}]", pattern) for number, pattern in enumerate(patterns or [])]
    return found


def _table_path(data: Data) -> tuple[str, str] | None:
    if data.table is not None:
        return "data.table", data.table.path
    if isinstance(data.group, Grouping) and data.group.table is not None:
        return "data.group.table", data.group.table
    return None

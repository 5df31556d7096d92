"""A table's latents as one plain array in a temporary folder of this machine, mapped into memory: rows in any order,
for any number of processes. Parts are copied into it when a row of theirs is first asked for.

    numbers    every row as it is stored, part after part; holes where no part was copied yet take no room
    scales     of int8 numbers: one float32 per row
    units.npy  of int8 numbers that have units
    copied     a byte per part: 1 once its rows are there
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from jaxtyping import Float, Int

from medfuncta_dist.latent_table.part_reads import PartSource
from medfuncta_dist.latents.table_format import Storage
from medfuncta_dist.latents.table_units import read_units
from medfuncta_dist.storage.digest import digest_json
from medfuncta_dist.storage.local_objects import replacing
from medfuncta_dist.storage.scratch import disk_full, process_folder

LOCKS = 64
"""Parts are copied by one process each; so many may be copied at a time."""


class LocalLatents:
    """Travels to workers, which open the files themselves. The folder goes with the process that made it; a worker
    that does not find it, as on another machine, makes one of its own."""

    def __init__(self, source: PartSource, storage: Storage) -> None:
        self._source, self._storage = source, storage
        self._starts = np.cumsum([0, *(part.rows for part in source.parts)])
        self._name = digest_json([part.sha256 for part in source.parts])[:24]
        self._folder = process_folder("latents") / self._name

    def __getstate__(self) -> dict[str, Any]:
        opened = ("_numbers", "_scales", "_copied", "_units")
        return {name: value for name, value in self.__dict__.items() if name not in opened}

    def rows(self, parts: Int[np.ndarray, " row"], rows: Int[np.ndarray, " row"]) -> Float[np.ndarray, "row latent"]:
        """The latents of these rows, float32. IntegrityError for a part that is not the one that was committed."""
        for part in np.unique(parts[self._copied[parts] == 0]):
            self._copy(int(part))
        at = self._starts[parts] + rows
        found: np.ndarray = self._numbers[at].astype(np.float32, copy=False)
        if self._storage.storage_type == "int8":
            found *= self._scales[at, None]
            found *= self._units
        return found

    @cached_property
    def _copied(self) -> np.ndarray:
        if not self._folder.parent.is_dir():
            self._folder = process_folder("latents") / self._name
        return self._mapped("copied", np.uint8, (len(self._source.parts),))

    @cached_property
    def _numbers(self) -> np.ndarray:
        return self._mapped("numbers", np.dtype(self._storage.storage_type), (self._starts[-1], self._storage.numbers))

    @cached_property
    def _scales(self) -> np.ndarray:
        return self._mapped("scales", np.float32, (self._starts[-1],))

    @cached_property
    def _units(self) -> np.ndarray:
        return np.asarray(np.load(self._folder / "units.npy", allow_pickle=False))

    def _mapped(self, name: str, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        path = self._folder / name
        with FileLock(self._lock(name)):
            if not path.exists():
                with replacing(path, durable=False) as new, new.open("wb") as file:
                    file.truncate(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        return np.asarray(np.memmap(path, dtype, "r", shape=shape))  # plain: a memmap is slower to index

    def _lock(self, name: str) -> Path:
        self._folder.mkdir(exist_ok=True)
        return self._folder / f"{name}.lock"

    def _copy(self, part: int) -> None:
        """Written, not through the map: a full disk is then an error, and not the end of the process."""
        with FileLock(self._lock(f"{part % LOCKS}")):
            if self._copied[part]:
                return
            table = self._source.whole(self._source.parts[part], ["latent"])
            try:
                self._write(part, "numbers", self._numbers, table["latent"].combine_chunks().flatten().to_numpy(False))
                if "scale" in table.column_names:
                    self._write(part, "scales", self._scales, table["scale"].to_numpy())
                    units = read_units(table.schema.metadata, self._storage.numbers)
                    self._save_units(np.ones(1, np.float32) if units is None else units)
                self._put("copied", part, b"\1")
            except OSError as error:
                raise disk_full(error) or error from None

    def _write(self, part: int, name: str, array: np.ndarray, values: np.ndarray) -> None:
        self._put(name, int(self._starts[part]) * array[:1].nbytes, values.tobytes())

    def _put(self, name: str, start: int, data: bytes) -> None:
        with (self._folder / name).open("r+b") as file:
            view = memoryview(data)
            while view:
                written = os.pwrite(file.fileno(), view, start)
                view, start = view[written:], start + written

    def _save_units(self, units: np.ndarray) -> None:
        path = self._folder / "units.npy"
        if not path.exists():
            with replacing(path, durable=False) as new, new.open("wb") as file:
                np.save(file, units, allow_pickle=False)

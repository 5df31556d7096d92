"""Where a publication goes: a new local folder, or a new prefix of a bucket. What is half written does not count.

A local folder is made beside its place and gets its name when it is whole. Objects in a bucket cannot be renamed: there
``SHA256SUMS`` is written last, and a prefix without it is no publication.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, RunFileError
from medfuncta_dist.storage.digest import sha256_file
from medfuncta_dist.storage.object_store import ObjectStore, normal_root
from medfuncta_dist.storage.publish import Unfenced, publish_bytes
from medfuncta_dist.storage.scratch import scratch_folder

CHECKSUMS = "SHA256SUMS"
ANOTHER = "name another folder, which does not exist yet; a publication is never changed"


@dataclass(frozen=True)
class Target:
    """``root``: an absolute path or an s3:// URI."""

    root: str

    @classmethod
    def of(cls, text: str, run: RunFile, private: Path) -> Target:
        """RunFileError where something is there already, or it lies in the run's storage or the private folder."""
        root = normal_root(text)
        for name, inside in (("storage", normal_root(run.storage)), ("private folder", str(private))):
            if f"{_real(root)}/".startswith(f"{_real(inside)}/"):
                what = f"a publication is for others, and must not lie in the {name}"
                raise RunFileError(what, where=root, do="name a folder outside of it")
        target = cls(root)
        target.require_free()
        return target

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return not self.root.startswith("s3://")

    def require_free(self) -> None:
        """RunFileError where something is there already."""
        if os.path.lexists(self.root) if self.is_local else ObjectStore(self.root).list(""):
            raise RunFileError("there is something here already", where=self.root, do=ANOTHER)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty folder to write the publication into; it is gone when the block ends, unless it was placed."""
        if not self.is_local:
            with scratch_folder("publish") as folder:
                yield folder
            return
        folder = _beside(Path(self.root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def place(self, staged: Path) -> None:
        """Make the whole publication in ``staged``, checksums included, appear."""
        self.require_free()
        if self.is_local:
            os.chmod(staged, 0o755)  # a temporary folder is its owner's alone
            os.rename(staged, self.root)
        else:
            _upload(ObjectStore(self.root), staged)


def _beside(place: Path) -> Path:
    """A new folder beside a place, so that it can be renamed to it. RunFileError where none can be made."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{place.name}.partial-", dir=place.parent))
    except OSError as error:
        what = f"no folder can be made here: {os.strerror(error.errno or 0)}"
        raise RunFileError(what, where=str(place.parent), do="name a folder where you may write") from None


def write_checksums(folder: Path) -> bytes:
    """Write ``SHA256SUMS`` of all files below the folder, as ``sha256sum --check`` reads it; its content."""
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    text = "".join(f"{sha256_file(folder / path)}  {path}\n" for path in paths)
    (folder / CHECKSUMS).write_text(text, encoding="ascii")
    return text.encode("ascii")


def _real(root: str) -> str:
    return root if root.startswith("s3://") else os.path.realpath(root)


def _upload(store: ObjectStore, staged: Path) -> None:
    sizes = {}
    for file in sorted(staged.rglob("*")):
        path = file.relative_to(staged).as_posix()
        if file.is_file() and path != CHECKSUMS:
            store.upload(file, path)
            sizes[path] = file.stat().st_size
    if {info.path: info.size for info in store.list("")} != sizes:
        what = "what arrived is not what was sent: nothing is published"
        raise IntegrityError(what, where=store.root, do="delete what is there, and publish again")
    alone = Unfenced("a prefix that was empty and that no run knows: nobody else writes there")
    publish_bytes(store, alone, CHECKSUMS, (staged / CHECKSUMS).read_bytes())

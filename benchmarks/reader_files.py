"""The image files that installed packages carry, for the scripts that compare our readers with other programs.

Nothing is downloaded: a package that is not installed has no files here, and the results say so.
"""

from __future__ import annotations

import gzip
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medfuncta_dist.scans.readers.reader import Reader

PACKAGES = {
    "pydicom": "pydicom",
    "pydicom-data": "data_store",
    "deid-data": "deid_data",
    "pynetdicom": "pynetdicom",
    "nibabel": "nibabel",
    "nilearn": "nilearn",
    "dipy": "dipy",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}
"""By the name of the package: the module whose folder it fills."""
IMAGE_READERS = ("dicom", "nifti", "mgh", "image", "tiff", "medmnist")
CODE = (".py", ".pyc", ".pyi", ".so", ".json", ".txt")
PACKED = ".dcm.gz"


@dataclass(frozen=True)
class ImageFile:
    """A file of a package. ``name``: below the package's folder; ``path``: where it is read, unpacked."""

    package: str
    name: str
    path: Path
    reader: Reader


def installed() -> dict[str, Path]:
    """The folder of each package that is here."""
    found = {}
    for package, module in PACKAGES.items():
        if (spec := find_spec(module)) is not None and spec.submodule_search_locations:
            found[package] = Path(next(iter(spec.submodule_search_locations)))
    return found


@contextmanager
def image_files() -> Iterator[list[ImageFile]]:
    """Every file that one of our image readers takes by its name, and DICOM files under any name. Gzipped DICOM files
    lie unpacked in a folder for as long."""
    with tempfile.TemporaryDirectory() as folder:
        yield [
            file
            for package, root in installed().items()
            for path in sorted(p for p in root.rglob("*") if p.is_file())
            if (file := _image_file(package, root, path, Path(folder))) is not None
        ]


def _image_file(package: str, root: Path, path: Path, folder: Path) -> ImageFile | None:
    from medfuncta_dist.scans.readers.reader_registry import find_reader, reader_named

    name = str(path.relative_to(root))
    if path.suffix in CODE:
        return None
    if path.name.endswith(PACKED):
        unpacked = folder / package / name.removesuffix(".gz")
        unpacked.parent.mkdir(parents=True, exist_ok=True)
        unpacked.write_bytes(gzip.decompress(path.read_bytes()))
        return ImageFile(package, name, unpacked, reader_named("dicom"))
    reader = find_reader(None, path.name)
    if is_dicom(path):
        reader = reader_named("dicom")
    return ImageFile(package, name, path, reader) if reader and reader.name in IMAGE_READERS else None


def is_dicom(path: Path) -> bool:
    """Whether the file has the preamble of a DICOM file."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of the libraries: damaged files are among those that are compared."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def or_none(work: Callable[[], Any]) -> Any:
    """What ``work`` answers; None where it fails, in whatever way a library fails."""
    try:
        with quiet():
            return work()
    except Exception:
        return None

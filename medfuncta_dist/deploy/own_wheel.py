"""A wheel of this package, made from what is installed here: an image gets the code that wrote its build context."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from medfuncta_dist.deploy.folder_writer import MODES
from medfuncta_dist.deploy.package_files import Content, Tree, read_package
from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.version import __version__

NAME = "medfuncta_dist"
OF_AN_INSTALLATION = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
"""Files of a package's metadata that installers write: they are not part of a wheel."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the wheel, the earliest that an archive can hold: equal files give an equal wheel."""


def build_own_wheel() -> tuple[str, bytes]:
    """(file name, content) of the wheel. MedfunctaError where the package's metadata is missing, or another's."""
    return f"{NAME}-{__version__}-py3-none-any.whl", pack_wheel(read_package() | _read_metadata(_find_distribution()))


def pack_wheel(files: Tree) -> bytes:
    """The wheel's bytes: the files, and the record of their digests, in which the file itself has none."""
    record = f"{NAME}-{__version__}.dist-info/RECORD"
    rows = [f"{name},sha256={_digest(content.data)},{len(content.data)}" for name, content in files.items()]
    rows.append(f"{record},,")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**files, record: Content("\n".join([*rows, ""]).encode())}.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = (0o100000 | MODES[content.executable]) << 16
            archive.writestr(entry, content.data, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _find_distribution() -> Distribution:
    try:
        found = distribution(NAME)
    except PackageNotFoundError:
        found = None
    if found is None or found.version != __version__:
        known = f"of version {found.version}, not {__version__}" if found else "missing"
        raise MedfunctaError(
            f"the metadata of the installed package is {known}", do="install the package again with pip"
        )
    return found


def _read_metadata(installed: Distribution) -> Tree:
    """The files of ``*.dist-info`` that belong in a wheel."""
    folder, found = f"{NAME}-{__version__}.dist-info", {}
    for path in installed.files or ():
        if path.parts[0] == folder and path.name not in OF_AN_INSTALLATION:
            found[path.as_posix()] = Content(path.read_binary())
    return dict(sorted(found.items()))


def _digest(data: bytes) -> str:
    """The digest as a wheel's record has it."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()

"""A clone in small: this repository's Makefile and installer over a project of one module and one dependency, whose
wheel lies in a folder. pip, venv and make are real, and nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TOOL_BYTES = 192 * 2**20
"""Of the dependency's one program, which pip copies last: long enough for an interruption to find it half written."""
BACKEND = """
import pathlib, sys
sys.path.insert(0, str(pathlib.Path(__file__).parent))
from wheels import write_wheel

def build_editable(folder, config_settings=None, metadata_directory=None):
    here = pathlib.Path(__file__).parent
    requirements = (here / "requirements").read_text().split()
    files = {"tiny.pth": str(here), "tiny-1.0.dist-info/entry_points.txt": "[console_scripts]\\ntiny = tiny:main\\n"}
    return write_wheel(pathlib.Path(folder), "tiny", files, requirements).name
"""


def write_wheel(folder: Path, name: str, files: Mapping[str, bytes | str], requires: list[str]) -> Path:
    """A wheel of version 1.0 with these files; its ``dev`` extra requires ``requires``."""
    extra = [f'Requires-Dist: {requirement}; extra == "dev"' for requirement in requires]
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", "Provides-Extra: dev", *extra, ""]
    info = f"{name}-1.0.dist-info"
    whole = {f"{info}/METADATA": "\n".join(metadata)} | dict(files)
    whole[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    rows = [f"{path},{_digest(data)},{len(data)}" for path, data in whole.items()]
    whole[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""])
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as wheel:
        for file, data in whole.items():
            wheel.writestr(file, data)
    return path


def _digest(data: bytes | str) -> str:
    digest = hashlib.sha256(data.encode() if isinstance(data, str) else data).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def make_clone(folder: Path, tool: bytes) -> Path:
    """The project; the dependency ``needed`` brings a module, and ``bin/tool`` made of ``tool``."""
    for name in ("clone/.ci", "wheels"):
        (folder / name).mkdir(parents=True)
    clone = folder / "clone"
    shutil.copy(ROOT / "Makefile", clone)
    if (ROOT / ".ci" / "install.py").exists():
        shutil.copy(ROOT / ".ci" / "install.py", clone / ".ci")
    shutil.copy(__file__, clone / "wheels.py")
    (clone / "backend.py").write_text(BACKEND)
    (clone / "requirements").write_text("needed")
    (clone / "constraints.txt").write_text("needed==1.0\n")
    (clone / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "tiny"\nversion = "1.0"\n'
    )
    (clone / "tiny.py").write_text("import needed\n\ndef main():\n    print('tiny in', __file__)\n")
    files = {"needed.py": "", "needed-1.0.data/scripts/tool": tool}
    write_wheel(folder / "wheels", "needed", files, [])
    return clone


def start_install(clone: Path) -> subprocess.Popen[str]:
    """``make install``, in a process group of its own."""
    wheels = str(clone.parent / "wheels")
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels, "PIP_NO_CACHE_DIR": "1"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "MAKE"))}
    return subprocess.Popen(
        ["make", "install", f"PYTHON={sys.executable}"],
        cwd=clone,
        env=kept | pip,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Its output; it must have succeeded."""
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    return out

"""What this machine has, printed as JSON by a process of its own: the one that runs the sections never touches CUDA."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NEEDED = ("torch", "numpy", "safetensors", "jaxtyping")
WANTED = ("triton", "deepspeed")
"""Without them a part is skipped: compiled steps, DeepSpeed."""


def probe() -> dict[str, Any]:
    """Python, packages, driver and card, as far as there are any."""
    found: dict[str, Any] = {"python": platform.python_version(), "packages": packages(), "driver": driver()}
    missing = [name for name in NEEDED if find_spec(name) is None]
    return found | {"missing": missing} | ({} if "torch" in missing else {"cuda": cuda()})


def packages() -> dict[str, str]:
    """Versions of what is installed."""
    found = {}
    for name in (*NEEDED, *WANTED):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def driver() -> str | None:
    """The version of NVIDIA's driver."""
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        with suppress(OSError, subprocess.TimeoutExpired):
            answer = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
            if answer.returncode == 0 and answer.stdout.strip():
                return answer.stdout.split()[0]
    with suppress(OSError, IndexError):
        return Path("/proc/driver/nvidia/version").read_text().split("Module")[1].split()[0]
    return None


def cuda() -> dict[str, Any]:
    """The card as torch sees it; ``why`` where it sees none."""
    try:
        import torch

        built = torch.version.cuda
        if not torch.cuda.is_available():
            return {"available": False, "built": built, "why": _why_not(built)}
        properties = torch.cuda.get_device_properties(0)
        return {
            "available": True,
            "built": built,
            "name": properties.name.removeprefix("NVIDIA "),
            "memory_gb": properties.total_memory / 1e9,
            "capability": f"{properties.major}.{properties.minor}",
            "processors": properties.multi_processor_count,
            "cards": torch.cuda.device_count(),
        }
    except Exception as error:
        return {"available": False, "built": None, "why": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}


def _why_not(built: str | None) -> str:
    return "torch is a CPU build" if built is None else f"torch is built for CUDA {built}, but finds no driver or card"


if __name__ == "__main__":
    print(json.dumps(probe()))

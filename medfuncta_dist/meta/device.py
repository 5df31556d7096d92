"""Where a task computes: on a GPU if it was granted one, else on the CPU, whatever else its process can see.

Ray hides no GPU from a task that asks for none, so what torch finds does not say what a task may use. A grant is a
number of the run file, ``cluster.gpus_per_worker`` or ``fit.gpus_per_task``, and travels with the task.
"""

from __future__ import annotations

import torch

from medfuncta_dist.errors import MedfunctaError


def granted_device(gpus: float) -> torch.device:
    """The device of a task that was granted so many GPUs; a share of one is a GPU, too."""
    return torch.device("cuda" if gpus > 0 else "cpu")


def require_device(device: torch.device) -> torch.device:
    """Itself, if torch can compute on it in this process. MedfunctaError, rather than another device's numbers."""
    if device.type == "cuda" and not torch.cuda.is_available():
        why = "torch is a CPU build" if torch.version.cuda is None else "torch finds no driver or device"
        raise MedfunctaError(
            f"this task was granted a GPU, but {why}",
            where=f"torch {torch.__version__}",
            do="install a CUDA build of torch on every worker, or, to use the CPU, set cluster.gpus_per_worker: 0 and "
            "leave out fit.gpus_per_task",
        )
    return device


def device_model(device: torch.device) -> str:
    """The model of a GPU, as its maker names it; ``cpu`` for any CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"

"""What Triton's compiler makes of the GPU kernels for A100 and H100, without either: printed as JSON.

Shared memory and registers are what the interpreter does not know of.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from medfuncta_dist.meta.machine import gpu_kernels as kernels

CARDS = {"A100": 80, "H100": 90}
HIDDEN = 256
TILE = {"ROWS": kernels.ROWS, "COLUMNS": kernels.COLUMNS, "INNER": kernels.INNER}
DAMPED = {"POINTS": kernels.DAMPED_POINTS, "STEP": kernels.DAMPED_STEP, "COLUMNS": kernels.DAMPED_COLUMNS}
KINDS = {
    "sine and cosine, three passes": ("_product", {"inner": HIDDEN, "PASSES": 3, "ADDED": 1, "WAVES": 2, **TILE}),
    "plus a base, one pass": ("_product", {"inner": HIDDEN, "PASSES": 1, "ADDED": 2, "WAVES": 0, **TILE}),
    "moving waves, three passes": ("_moving", {"inner": HIDDEN, "PASSES": 3, **TILE}),
    "damped motion": ("_damped", {"MOVING": True, **DAMPED}),
}
NUMBERS = ("rows", "columns", "points", "tiles")


def build(name: str, constants: dict[str, object], capability: int) -> dict[str, int]:
    """Shared memory (bytes), registers, and what is spilt (bytes) per thread."""
    function = getattr(kernels, name)
    names = function.arg_names
    signature = {n: "constexpr" if n in constants else "i32" if n in NUMBERS else "*fp32" for n in names}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n] == "*fp32" or n == "columns"
    }
    source = ASTSource(function, signature, {(names.index(n),): value for n, value in constants.items()}, aligned)
    options = {"num_warps": kernels.WARPS, "num_stages": kernels.STAGES}
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / "kernel.ptx"
        code.write_text(built.asm["ptx"])
        suffix = "a" if capability >= 90 else ""
        command = [
            get_ptxas(capability).path,
            "-v",
            f"--gpu-name=sm_{capability}{suffix}",
            str(code),
            "-o",
            f"{folder}/kernel",
        ]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr.replace(",", " ").split()
    return {
        "shared": built.metadata.shared,
        "registers": int(told[told.index("registers") - 1]),
        "spilt": int(told[told.index("spill") - 2]),
    }


if __name__ == "__main__":
    found = {
        f"{kind}, {card}": build(name, constants, capability)
        for card, capability in CARDS.items()
        for kind, (name, constants) in KINDS.items()
    }
    print(json.dumps(found))

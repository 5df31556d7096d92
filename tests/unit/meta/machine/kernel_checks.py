"""What a process in which Triton interprets its kernels finds about them: printed as JSON, errors by name.

A process of its own: whether Triton interprets is decided when it is first imported.
"""

from __future__ import annotations

import json

import torch
from torch import Tensor

from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.siren import SirenSpec, init_params
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.meta.machine import gpu_kernels
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.products import product, product_plus, product_plus_row
from medfuncta_dist.meta.machine.self_check import Trial, self_check
from medfuncta_dist.meta.outer_loop import MetaLearner
from medfuncta_dist.meta.sweeps.chunks import Chunks
from tests.unit.meta.recorders import record_trace

SCANS, POINTS, INNER, COLUMNS = 3, 70, 48, 40
"""No tile divides them."""
KERNELS = {"tf32x3": Arithmetic("triton", precision="tf32x3"), "tf32": Arithmetic("triton", precision="tf32")}
_drawn = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_drawn)


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def of_products() -> dict[str, float]:
    """Each kernel against float64, by name and precision."""
    left, motion, weight = normal(SCANS * POINTS, INNER), normal(SCANS * POINTS, INNER), normal(COLUMNS, INNER)
    shifts, tangents, base = 30 * normal(SCANS, COLUMNS), normal(SCANS, COLUMNS), normal(SCANS * POINTS, COLUMNS)
    exact, parts = left.double() @ weight.T.double(), gpu_kernels.kept_parts(weight.T)
    phase = (exact.view(SCANS, POINTS, -1) + shifts.double()[:, None]).flatten(0, 1)
    speed = ((motion.double() @ weight.T.double()).view(SCANS, POINTS, -1) + tangents.double()[:, None]).flatten(0, 1)
    waves = (phase.sin(), phase.cos(), speed * phase.sin(), speed * phase.cos())
    found: dict[str, float] = {}
    for name, by in KERNELS.items():
        passes = 3 if name == "tf32x3" else 1
        found[f"product {name}"] = error(product(left, weight.T, by), exact)
        found[f"product with parts {name}"] = error(product(left, weight.T, by, parts), exact)
        found[f"product plus {name}"] = error(product_plus(base, left, weight.T, by), exact + base)
        found[f"product plus row {name}"] = error(product_plus_row(base[0], left, weight.T, by), exact + base[0])
        pair = gpu_kernels.product(left, parts, passes, shifts, waves=2)
        moving = gpu_kernels.moving_waves(left, motion, parts, passes, shifts, tangents)
        found[f"sine and cosine {name}"] = max(map(error, pair, waves))
        found[f"moving waves {name}"] = max(map(error, moving, waves))
    return found


def of_elementwise() -> dict[str, float]:
    """The way back through a sine, and sine and cosine themselves."""
    cosine, curvature, adjoint, moving = (normal(SCANS, 2 * POINTS, COLUMNS) for _ in range(4))
    exact = (cosine.double() * adjoint, (cosine.double() * adjoint).sum(1))
    through = cosine.double() * adjoint - curvature.double() * moving
    motion = cosine.double() * moving
    phases = torch.linspace(-8000, 8000, 64 * 999).view(64, -1)
    one = gpu_kernels.kept_parts(torch.eye(16))
    sines, cosines = gpu_kernels.product(phases[:, :16].contiguous(), one, 3, waves=2)
    true = phases[:, :16].double()
    absolute = max(float((sines - true.sin()).abs().max()), float((cosines - true.cos()).abs().max()))
    pairs = zip(
        gpu_kernels.damped_motion(cosine.clone(), curvature.clone(), adjoint, moving),
        (through, motion, through.sum(1), motion.sum(1)),
        strict=True,
    )
    return {
        "damped": max(map(error, gpu_kernels.damped(cosine.clone(), adjoint), exact)),
        "damped motion": max(error(*pair) for pair in pairs),
        "sine of large phases, absolute": absolute,
    }


def spec(residual: bool) -> SirenSpec:
    return SirenSpec(2, 1, layers=4, hidden=32, latent=24, omegas=(20.0, 24.0, 28.0), residual=residual)


def of_steps() -> dict[str, float]:
    """A whole outer step with kernels, and one in torch's float32, against float64."""
    found: dict[str, float] = {}
    for residual in (False, True):
        exact = step(spec(residual), Arithmetic("torch"), torch.float64)
        for name, by in {"fp32": Arithmetic("torch"), **KERNELS}.items():
            pairs = zip(step(spec(residual), by, torch.float32), exact, strict=True)
            found[f"step {'residual ' * residual}{name}"] = max(error(*pair) for pair in pairs if bool(pair[1].any()))
    return found


def step(field: SirenSpec, by: Arithmetic, dtype: torch.dtype) -> list[Tensor]:
    params = {name: one.to(dtype) for name, one in init_params(field, torch.Generator().manual_seed(0)).items()}
    side = 12
    targets = torch.rand(SCANS, side * side, 1, generator=torch.Generator().manual_seed(1)).to(dtype)
    coordinates = grid((side, side)).to(dtype)
    learner = MetaLearner(field, params, coordinates, 1e-2, chunks=Chunks(100, 2), arithmetic=by)
    sets = context_sets(side * side, 0.25, 3, seed=0, outer_step=0)
    rates = torch.full((1, 1, 1), 1e-2, dtype=dtype)
    latents = torch.zeros(SCANS, field.latent, dtype=dtype)
    with torch.no_grad():
        return learner.work(targets, latents, rates, *sets, *(params[name] for name in field.shapes()))


def of_trials() -> dict[str, str]:
    """What a trial says of sound kernels, and of some that round twice."""
    trial = Trial(
        spec(False), 144, 0.25, 3, 2, Chunks(100, 3), Arithmetic("torch"), 1, 0, compiling=False, kernels="tf32x3"
    )
    sound = self_check(trial, record_trace).reason
    whole = gpu_kernels.kept_parts
    gpu_kernels.kept_parts = lambda right: whole(right) * torch.tensor([1.0, 0.0])[:, None, None]
    wrong = self_check(trial, record_trace)
    gpu_kernels.kept_parts = whole
    return {"sound": sound, "wrong": wrong.reason, "wrong products": str(wrong.products)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({**of_products(), **of_elementwise(), **of_steps(), **of_trials()}))

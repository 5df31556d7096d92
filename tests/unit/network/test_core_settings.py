from __future__ import annotations

import pytest
import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.network.core_settings import field_spec, fit_settings, inner_of, new_learner


def run_file(storage: str = "/unused", **sections: dict) -> RunFile:
    data = {"source": "unused", "shape": [6, 5, 4], "channels": 2}
    return RunFile.model_validate({"name": "r", "storage": storage, "data": data, **sections})


def test_the_run_file_decides_the_architecture() -> None:
    spec = field_spec(run_file(field={"layers": 4, "hidden": 8, "latent": 3, "omega_first": 10.0, "omega_last": 40.0}))
    assert (spec.coords, spec.channels, spec.layers, spec.hidden, spec.latent) == (3, 2, 4, 8, 3)
    assert spec.omegas == pytest.approx((10, 20, 30))
    listed = field_spec(run_file(field={"layers": 3, "omegas": [5.0, 7.0], "residual": False, "modulate_first": True}))
    assert (listed.omegas, listed.residual, listed.modulate_first) == ((5.0, 7.0), False, True)


def test_the_seed_decides_the_first_parameters() -> None:
    small = {"layers": 3, "hidden": 4, "latent": 2}
    first, again, other = (new_learner(run_file(field=small, train={"seed": seed})).params() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["layer.1.weight"], other["layer.1.weight"])


def test_rates_start_as_the_run_file_says() -> None:
    def rates(policy: str) -> list[float]:
        meta = {"inner_steps": 2, "inner_rate": 0.4, "rate_policy": policy}
        field = {"layers": 4, "hidden": 4, "latent": 2, "omegas": [5.0, 10.0, 20.0]}
        return new_learner(run_file(field=field, meta=meta)).rates.flatten().tolist()

    assert rates("scalar") == pytest.approx([0.4])
    assert rates("layer") == pytest.approx([0.4, 0.1])
    assert rates("learned") == pytest.approx([0.4, 0.4])


@pytest.mark.parametrize("method", ["sgd", "momentum", "gauss-newton", "exact"])
def test_fit_settings_tell_the_method_of_the_run_file(method: str) -> None:
    kind = {"kind": "basis", "latent": 8} if method == "exact" else {}
    settings = {"method": method, "steps": 1, "closed_form": False}
    assert fit_settings(run_file(field=kind, fit=settings)).method == method


def test_a_network_tells_the_precision_of_the_gpu_that_trained_it() -> None:
    gpu = {"gpus_per_worker": 1}
    assert "precision" not in inner_of(run_file())
    assert inner_of(run_file(cluster=gpu, meta={"precision": "tf32"}))["precision"] == "tf32"
    assert inner_of(run_file(cluster=gpu))["precision"] == "fp32"


def test_memory_that_ran_out_halves_the_block_that_is_fitted_together() -> None:
    def block(**meta: int) -> int | None:
        return fit_settings(run_file(fit={"block_scans": 10}, meta=meta)).block

    assert [block(), block(halvings=1), block(halvings=2), block(halvings=9)] == [10, 5, 2, 1]
    assert fit_settings(run_file(meta={"halvings": 1})).block is None

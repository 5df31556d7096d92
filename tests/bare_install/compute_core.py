"""The whole compute core on a few tiny scans: training steps, fits, and a network's files, of both kinds of field.

Run as a script it prints what it found; the test compares that with what is found where everything is installed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from medfuncta_dist.fields.basis import BasisSpec
from medfuncta_dist.fields.basis import init_params as init_basis
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.fields.siren import init_params as init_siren
from medfuncta_dist.latents.fit import new_fitter
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.meta.closed_form.basis_learner import BasisLearner
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.meta.learner import Learner, Trained
from medfuncta_dist.meta.outer_loop import MetaLearner

SHAPE, SCANS, LATENT = (8, 8), 6, 12
SIREN = SirenSpec.linear(coords=2, channels=1, layers=4, hidden=8, latent=LATENT, omega_first=10, omega_last=20)
BASIS = BasisSpec(2, 1, 3, 8, LATENT, LATENT, (10.0, 10.0), mapped=False)
FITS = {
    "sgd": FitSettings(3, 0.1),
    "momentum": FitSettings(3, 0.1, method="momentum"),
    "gauss-newton": FitSettings(3, method="gauss-newton", curvature_ratio=0.5, closed_form=True),
}


def compute(folder: Path) -> dict[str, str]:
    """SHA-256 of every result by name. ``folder``: where the networks' files are written."""
    torch.set_num_threads(1)
    scans = torch.rand(SCANS, SHAPE[0] * SHAPE[1], 1, generator=torch.Generator().manual_seed(1))
    siren = MetaLearner(SIREN, init_siren(SIREN, seeded()), grid(SHAPE), 0.1, learn_rates=True)
    basis = BasisLearner(BASIS, init_basis(BASIS, seeded()), grid(SHAPE), LATENT, ridge=1e-3, block_points=32)
    results: dict[str, Tensor] = {}
    for name, learner, settings in (("siren", siren, FITS), ("basis", basis, {"exact": FitSettings()})):
        results[f"{name}: losses"] = step(learner, scans)
        results |= {f"{name}: θ, {part}": tensor.detach() for part, tensor in learner.params().items()}
        trained = learner.trained(learner.params(), [scans])
        network = stored(trained, folder / name)
        for method, given in settings.items():
            fitter = new_fitter(network.spec, network.params, grid(SHAPE), given, network.extras, learned_rates=False)
            found = fitter.fit(scans)
            results |= {f"{name}: {method}": found.latents, f"{name}: {method}, PSNR": found.psnr}
            results[f"{name}: {method}, decoded"] = network.decode(found.latents, (11, 9))
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in results.items()}


def seeded() -> torch.Generator:
    """The same numbers every time."""
    return torch.Generator().manual_seed(0)


def step(learner: Learner, scans: Tensor) -> Tensor:
    """Each scan's loss; θ takes one step down their mean."""
    contexts = context_sets(len(learner.coordinates), 0.5, 2, seed=0, outer_step=0)
    losses = learner(scans, torch.zeros(SCANS, LATENT, requires_grad=True), contexts)
    losses.mean().backward()
    torch.optim.AdamW(learner.parameters(), lr=1e-3).step()
    return losses.detach()


def stored(trained: Trained, folder: Path) -> SharedNetwork:
    """The network, written to files and read again."""
    network = SharedNetwork(
        trained.spec,
        {name: tensor.detach() for name, tensor in trained.params.items()},
        contract={"shape": list(SHAPE)},
        inner=trained.facts,
        dataset_digest="",
        code_version="",
        extras=trained.extras,
    )
    folder.mkdir(parents=True)
    for name, content in network.to_files().items():
        (folder / name).write_bytes(content)
    loaded = SharedNetwork.load(folder)
    assert loaded.digest == network.digest
    return loaded


if __name__ == "__main__":
    print(json.dumps(compute(Path(sys.argv[1]))))

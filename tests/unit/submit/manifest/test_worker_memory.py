from __future__ import annotations

import pytest

from medfuncta_dist.config.load import parse
from medfuncta_dist.submit.manifest.worker_memory import PROCESS_BYTES, most_demanding, worker_bytes
from tests.unit.submit.manifests import RUN, run_file

ON_CPUS = ("cluster.gpus_per_worker=0", "cluster.workers=2", "train.batch=8")


def beyond(stage: str, *overrides: str) -> int:
    """Bytes beside those of a process without scans."""
    return worker_bytes(run_file(*overrides), stage) - PROCESS_BYTES[stage]


def test_a_larger_shape_needs_more_in_every_stage() -> None:
    for stage in ("pack", "train", "fit", "evaluate"):
        assert beyond(stage, "data.shape=[64, 64]") > beyond(stage) > 0


def test_training_holds_a_ranks_share_and_on_a_cpu_the_network() -> None:
    values = 4 * 8 * 8
    assert beyond("train") == 3 * values  # 24 scans, 8 workers
    siren = ("field.layers=4", "field.hidden=16", "field.latent=8")
    assert beyond("train", *ON_CPUS, *siren) == 4 * values + 4 * 16 * (2 * 16 + 3 * 8)


def test_a_basis_field_on_a_cpu_holds_the_batch_and_all_pairs_of_features() -> None:
    basis = ("preset=2d", "field.latent=16", "field.features=32")
    assert beyond("train", *ON_CPUS, *basis) == 8 * 4 * 64 + 6 * 8 * 32**2
    assert beyond("train", "train.batch=24", *basis) == 3 * 4 * 64


@pytest.mark.parametrize(
    ("settings", "matrix"),
    [
        (("fit.method=sgd", "fit.closed_form=false"), 0),
        (("fit.method=gauss-newton", "fit.closed_form=false"), 4 * 8**2),
        (("fit.method=sgd", "fit.closed_form=true"), 4 * 64 * 3 * 16),
    ],
)
def test_fitting_on_a_cpu_holds_a_batch_and_its_largest_matrix(settings: tuple[str, ...], matrix: int) -> None:
    siren = ("field.layers=4", "field.hidden=16", "field.latent=8", "fit.batch=10")
    network = 4 * 16 * (2 * 16 + 3 * 8)
    assert beyond("fit", *ON_CPUS, *siren, *settings) == 10 * 4 * 64 + network + matrix
    assert beyond("fit", "fit.batch=10") == 10 * 4 * 64  # on a GPU


def test_a_batch_is_no_larger_than_a_shard() -> None:
    assert beyond("fit", "fit.batch=1000", "data.shard_scans=20") == 20 * 4 * 64


def test_a_batch_of_patches_may_be_larger_than_the_number_of_scans_of_a_shard() -> None:
    patches = RUN.replace("shape: [8, 8]", "patches: {size: [8, 8]}")
    run = parse(patches, ("fit.batch=1000", "data.shard_scans=20"))
    assert worker_bytes(run, "fit") - PROCESS_BYTES["fit"] == 1000 * 4 * 64


def test_the_stage_that_needs_most_decides() -> None:
    run = run_file()
    assert most_demanding(run, ["pack", "evaluate"]) == ("evaluate", worker_bytes(run, "evaluate"))

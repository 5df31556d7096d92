"""A thousand scans, seven of which kill their worker: the other 993 are fitted, the seven are listed with reasons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import locate_table
from medfuncta_dist.fitting.fit_failures import ENDED_ITS_WORKER
from medfuncta_dist.fitting.fit_rows import NOT_FINITE
from medfuncta_dist.shards.snapshot import Snapshot, load_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from tests.chaos.poisoned_workers import environment
from tests.integration.commands import Ended, command
from tests.mapping_rows import read_mapping
from tests.unit.latents.fitted import FIELD, network, publish, run_file
from tests.writers import write_medmnist, write_nifti, write_png

SCANS, FILES = 1000, 24
CRASHING = "crashing.png"
IN_PACK = {
    "nan.nii.gz": "some values are not finite (data.non_finite: background takes them for background)",
    "cut.png": "not a readable PNG, JPEG or BMP file",
    "volume.nii.gz": "expected 2 axes, found 3",
    CRASHING: "packing this source failed: WorkerDiedError",
}


@pytest.fixture
def run(kind: str, tmp_path: Path, s3: Callable[[], str]) -> RunFile:
    archive = tmp_path / "archive"
    archive.mkdir()
    for n, scans in enumerate(np.diff(np.linspace(0, SCANS - len(IN_PACK), FILES + 1).astype(int))):
        write_medmnist(archive / f"{n:02}.npz", (8, 8), {"train": int(scans)}, seed=n)
    write_nifti(archive / "nan.nii.gz", array=np.full((8, 8, 1), np.nan, np.float32))
    write_nifti(archive / "volume.nii.gz", (8, 8, 8))
    write_png(archive / "cut.png", (8, 8))
    (archive / "cut.png").write_bytes((archive / "cut.png").read_bytes()[:-30])
    write_png(archive / CRASHING, (8, 8))
    run = run_file(
        tmp_path,
        s3(),
        kind,
        name="poison",
        data={"source": str(archive / "*"), "shape": [8, 8], "shard_scans": 1024, "sources_per_task": 4},
        field=FIELD,
        fit={"batch": 8, "scans_per_task": 8, "min_psnr": 0.0},
        cluster={"cache": str(tmp_path / "cache"), "workers": 2},
    )
    (tmp_path / "run.yaml").write_text(dump(run))
    return run


@pytest.mark.fault("poison")
@pytest.mark.parametrize("kind", ["siren", pytest.param("basis", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("ray_cluster")
def test_seven_of_a_thousand(
    kind: str, run: RunFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: Callable[[str], None]
) -> None:
    def poisoned(stage: str, **poison: list[str]) -> Ended:
        for name, value in environment(poison).items():
            monkeypatch.setenv(name, value)
        return command(stage, str(tmp_path / "run.yaml"))

    packed = poisoned("pack", crash=[CRASHING])
    assert packed.code == 3, packed.stderr
    store = ObjectStore(run.storage)
    snapshot = load_snapshot(store, run.dataset, None)
    assert reasons_by_file(snapshot, tmp_path / "private") == IN_PACK
    assert (snapshot.samples, packed.answer["pack"]["quarantined"]) == (SCANS - 4, 4)

    publish(run, network(run))
    train = [row.key for row in read_mapping(tmp_path / "private") if row.uri.endswith(".npz")]
    nan, fail, kill = train[100], train[500], train[900]
    fitted = poisoned("fit", nan=[nan], fail=[fail], kill=[kill])
    assert fitted.code == 3, fitted.stderr
    counts = fitted.answer["fit"]["counts"]
    assert (counts["packed"], counts["fitted"], counts["quarantined"]) == (SCANS - 4, SCANS - 7, 3)
    folder = locate_table(run, store).folder
    found = {
        q.key: q.reason for commit in latent_ledger.read_commits(store, folder).values() for q in commit.quarantined
    }
    assert found == {nan: NOT_FINITE, fail: "fitting it failed: ArithmeticError", kill: ENDED_ITS_WORKER}
    assert fitted.answer["fit"]["reasons"] == dict.fromkeys(found.values(), 1)
    assert packed.answer["pack"]["reasons"] == dict.fromkeys(IN_PACK.values(), 1)
    keys = latent_ledger.load_table(store, folder, columns=["key"])["key"].to_pylist()
    assert sorted({*keys, *found}) == sorted(train)
    seconds = packed.answer["pack"]["seconds"] + fitted.answer["fit"]["seconds"]
    measured(f"{counts['fitted']} of {SCANS} fitted, 4 + 3 quarantined with their reasons, in {seconds:.0f} s")


def reasons_by_file(snapshot: Snapshot, private: Path) -> dict[str, str]:
    names = {row.key: Path(row.uri).name for row in read_mapping(private)}
    return {names[entry["key"]]: entry["reason"] for entry in snapshot.quarantined}

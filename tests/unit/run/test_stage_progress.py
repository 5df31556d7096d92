"""A stage's reports on their way to the bar, the record and Ray's metrics."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from medfuncta_dist.errors import IntegrityError, LimitReachedError, RunFileError
from medfuncta_dist.run.stage_progress import exported_figures, open_reporter
from medfuncta_dist.stages.chain import run_stages
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.status.run_cost import count_gpus
from medfuncta_dist.telemetry.metric_catalogue import METRICS
from medfuncta_dist.telemetry.progress_record import StageProgress, read_progress
from medfuncta_dist.telemetry.progress_report import BytesDone, ProgressReport
from tests.unit.stages.test_refusals import run_file


@pytest.mark.parametrize(("beside", "held"), [(("pack",), 0.0), (("pack", "train"), 2.0)])
def test_packing_holds_the_gpus_of_the_job_that_it_is_part_of(
    beside: tuple[str, ...],
    held: float,
    archive: Path,
) -> None:
    run = run_file(archive, cluster__workers=2, cluster__gpus_per_worker=1)
    assert count_gpus(run, beside) == held
    store = ObjectStore(run.storage)
    with open_reporter(run, store, "pack", None, beside) as reporter:
        recorder = reporter._recorder
        began = recorder.progress.updated
        recorder._clock = lambda: began + 3600.0
    assert json.loads(store.read("runs/refused/progress/pack.json"))["gpu_s"] == 3600.0 * held


def test_a_stage_knows_what_it_shares_its_cluster_with(
    archive: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from medfuncta_dist.stages import pack_stage, train_stage

    seen: list[tuple[str, ...]] = []
    packed = pack_stage.run_pack
    monkeypatch.setattr(pack_stage, "run_pack", lambda *given: seen.append(tuple(given[3])) or packed(*given))
    monkeypatch.setattr(train_stage, "run_train", lambda *given: {"said": []})
    run_stages(run_file(archive), ["pack", "train"])
    assert seen == [("pack", "train")]


def test_one_report_reaches_the_bar_and_the_record(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_file(archive)
    store = ObjectStore(run.storage)
    with open_reporter(run, store, "fit", None) as reporter:
        reporter.notify("a line")
        reporter.report(ProgressReport("fit", 12, 40, {"tasks": "3/10", "quarantined": 1}))
    assert capsys.readouterr().err.splitlines() == ["fit: a line", "fit 12/40  time left ?  tasks 3/10  quarantined 1"]
    found = read_progress(store, run.name, "fit")
    assert found is not None
    assert (found.unit, found.total, found.notes, found.starts) == ("scans", 40, {"quarantined": 1}, 1)


def test_packing_is_judged_by_scans_and_counted_in_sources() -> None:
    report = ProgressReport("pack", 4, 10, {"packed": 40, "quarantined": 2})
    progress = StageProgress("x", "pack", "sources", 0.0, 0.0, 8.0, starts=3, samples=((0.0, 0), (8.0, 4)))
    assert exported_figures(report, progress) == {
        "done": 4,
        "total": 10,
        "starts": 3,
        "packed": 40,
        "quarantined": 2,
        "scans_per_s": 5.0,
    }
    figures = exported_figures(
        replace(report, size=BytesDone(600, 1000)), replace(progress, byte_samples=((0.0, 200), (8.0, 600)))
    )
    known = {metric.name for metric in METRICS if metric.stage == "pack"}
    assert {"bytes_done", "bytes_total", "bytes_per_s"} <= known
    assert (figures["bytes_done"], figures["bytes_total"], figures["bytes_per_s"]) == (600, 1000, 50)


def test_training_exports_its_speed_from_rank_0_alone() -> None:
    progress = StageProgress("x", "train", "steps", 0.0, 0.0, 8.0, samples=((0.0, 0), (8.0, 4)))
    assert "scans_per_s" not in exported_figures(ProgressReport("train", 4, 10), progress)


def test_a_limit_counts_the_hours_of_all_stages_and_of_their_earlier_attempts(archive: Path) -> None:
    run = run_file(archive, kubernetes__max_hours=2.0)
    store = ObjectStore(run.storage)
    for _ in range(2):
        with open_reporter(run, store, "pack", None) as reporter:
            began = reporter._recorder.progress.updated
            reporter._recorder._clock = lambda began=began: began + 1800.0
            assert reporter.limit_reached() is None
    with open_reporter(run, store, "fit", None) as reporter:
        began = reporter._recorder.progress.updated
        assert reporter.limit_reached() is None
        reporter.report(ProgressReport("fit", 12, 40, {}))
        reporter._recorder._clock = lambda: began + 3700.0
        error = reporter.limit_reached()
    assert isinstance(error, LimitReachedError)
    assert error.what == "the run has used 2.0 of 2 hours (kubernetes.max_hours): fit stops at 12 of 40 scans"
    assert "--set kubernetes.max_hours=4" in error.do
    higher = run_file(archive, kubernetes__max_hours=4.0)
    with open_reporter(higher, store, "train", None) as reporter:
        assert reporter.limit_reached() is None


def test_money_is_counted_by_the_prices_of_the_clusters_that_were_held(archive: Path) -> None:
    prices = {"gpu_hour": 2.0, "cpu_hour": 1.0, "currency": "EUR"}  # the head and one worker have three cores
    run = run_file(archive, kubernetes__max_cost=4.0, kubernetes__prices=prices)
    store = ObjectStore(run.storage)
    with open_reporter(run, store, "pack", None) as reporter:
        began = reporter._recorder.progress.updated
        reporter._recorder._clock = lambda: began + 3600.0
        assert reporter.limit_reached() is None
        reporter._recorder._clock = lambda: began + 4800.0
        error = reporter.limit_reached()
    assert error is not None
    assert "4.00 of 4.00 EUR (kubernetes.max_cost): pack has not begun" in error.what
    assert read_progress(store, run.name, "pack").cost == pytest.approx(4.0)


def test_money_without_a_price_is_refused_before_the_stage_begins(archive: Path) -> None:
    run = run_file(archive, kubernetes__max_cost=4.0, kubernetes__prices={"gpu_hour": 2.0})
    with pytest.raises(RunFileError, match="pack would run on a cluster without a price"):
        run_stages(run, ["pack"])
    assert read_progress(ObjectStore(run.storage), run.name, "pack") is None


def test_a_limit_does_not_forget_what_it_cannot_read(archive: Path) -> None:
    run = run_file(archive, kubernetes__max_hours=2.0)
    store = ObjectStore(run.storage)
    store.write("runs/refused/progress/pack.json", b"{")
    with pytest.raises(IntegrityError, match="progress record"), open_reporter(run, store, "fit", None):
        pass


def test_limits_and_where_pods_run_change_no_digest(archive: Path) -> None:
    plain = run_file(archive)
    limits = {"max_hours": 2.0, "zones": "same", "gpu_resource": "amd.com/gpu", "spill_gigabytes": 50.0}
    limited = run_file(archive, kubernetes=limits)
    assert (plain.digest(), plain.results_digest) == (limited.digest(), limited.results_digest)
    run_stages(plain, ["pack"])
    run_stages(limited, ["pack"])  # the same run

from __future__ import annotations

from typing import Any

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.submission_id import JOB_VARIABLE
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.submit.status.spending import (
    LARGEST_QUEUE_S,
    QUEUE_MARGIN_S,
    Budget,
    Spent,
    compute_spent,
    forecast,
    require_budget,
)
from medfuncta_dist.telemetry.progress_record import StageProgress
from tests.unit.submit.manifests import run_file

HOUR = 3600.0
PRICED = "kubernetes.prices={gpu_hour: 2.0, currency: EUR}"  # the job of train holds 8 GPUs: 16 EUR per hour


def budget(*overrides: str, stages: tuple[str, ...] = ("train",)) -> Budget:
    return Budget.of(run_file(PRICED, *overrides), stages)


def progress(stage: str = "train", **given: Any) -> StageProgress:
    known = {"began": 0.0, "started": 0.0, "updated": 100.0}
    return StageProgress("chest", stage, "steps", **{**known, **given})


def test_without_a_limit_nothing_is_ever_reached() -> None:
    free = budget()
    assert not free.limited
    assert free.reached(Spent(1e9, 1e9), "train stops") is None
    assert free.queue_seconds(Spent()) is None
    assert forecast(free, Spent(), ["train"], {}) == ""


@pytest.mark.parametrize(
    ("limit", "spent"),
    [("max_hours=2", Spent(2 * HOUR, 0.0)), ("max_cost=32", Spent(0.0, 32.0))],
)
def test_a_limit_is_reached_at_its_value_and_not_before(limit: str, spent: Spent) -> None:
    given = budget(f"kubernetes.{limit}")
    assert given.reached(Spent(0.99 * spent.seconds, 0.99 * spent.cost), "") is None
    error = given.reached(spent, "train stops at 40 of 200 steps")
    assert error is not None
    assert error.exit_code == 5
    assert error.what.endswith("train stops at 40 of 200 steps")
    assert "run the same command with a higher limit: --set kubernetes." in error.do


def test_the_first_of_two_limits_counts() -> None:
    both = budget("kubernetes.max_hours=10", "kubernetes.max_cost=32")
    assert both.seconds_left(Spent()) == 2 * HOUR
    assert both.seconds_left(Spent(9 * HOUR, 16.0)) == HOUR
    assert both.used(Spent(HOUR, 16.0)) == (
        "1.0 of 10 hours (kubernetes.max_hours) and 16.00 of 32.00 EUR (kubernetes.max_cost)"
    )


def test_a_submitted_job_is_told_how_to_resume_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JOB_VARIABLE, "chest-train-3")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    error = budget("kubernetes.max_hours=2").reached(Spent(2.1 * HOUR), "train stops")
    assert error is not None
    assert error.do.endswith(
        "run medfuncta-dist resume chest-train-3 with a higher limit: --set kubernetes.max_hours=4"
    )


def test_in_a_pod_it_is_also_told_to_end_the_retries_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JOB_VARIABLE, "chest-train-3")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    error = budget("kubernetes.max_hours=2").reached(Spent(2.1 * HOUR), "train stops")
    assert error is not None
    assert "max_hours=4. Before that, run medfuncta-dist cancel chest-train-3: KubeRay retries it" in error.do


def test_kueue_ends_a_job_later_than_its_driver_and_in_numbers_that_it_reads() -> None:
    given = budget("kubernetes.max_hours=10")
    assert given.queue_seconds(Spent()) == QUEUE_MARGIN_S + 11 * 3600
    assert given.queue_seconds(Spent(5 * HOUR)) == QUEUE_MARGIN_S + 5.5 * 3600
    assert given.queue_seconds(Spent(11 * HOUR)) == QUEUE_MARGIN_S
    assert budget("kubernetes.max_hours=1.0e+6").queue_seconds(Spent()) == LARGEST_QUEUE_S


def test_money_without_a_price_is_refused_when_the_file_is_read_and_for_each_job() -> None:
    with pytest.raises(RunFileError, match="nothing has a price"):
        run_file("kubernetes.max_cost=10")
    with pytest.raises(RunFileError, match="pack would run on a cluster without a price") as caught:
        budget("kubernetes.max_cost=10", stages=("pack",))
    assert "cpu_hour" in caught.value.do


def test_what_is_spent_is_that_of_all_stages_and_attempts() -> None:
    run: RunFile = run_file("kubernetes.prices={gpu_hour: 2.0, cpu_hour: 0.5}")
    packed = progress("pack", used_s=HOUR, held_s=HOUR, cost=3.0, priced_s=HOUR)
    trained = progress("train", used_s=2 * HOUR, held_s=0.5 * HOUR, cost=8.0, priced_s=0.5 * HOUR)
    # 1.5 hours of train had no price yet: 8 GPUs at 2, and the 2 cores of the head at 0.5.
    spent = compute_spent(run, {"pack": packed, "train": trained})
    assert spent == Spent(3 * HOUR, 11.0 + 1.5 * 17.0)
    older = progress("fit", held_s=HOUR)  # as earlier versions wrote it
    assert compute_spent(run, {"fit": older}).seconds == HOUR


def test_a_job_for_which_nothing_is_left_is_refused() -> None:
    given = budget("kubernetes.max_hours=2")
    require_budget(given, Spent(1.9 * HOUR), "chest-train-2")
    with pytest.raises(RunFileError, match=r"2\.0 of 2 hours .* would end as it begins") as caught:
        require_budget(given, Spent(2 * HOUR), "chest-train-2")
    assert "--set kubernetes.max_hours=4" in caught.value.do


def test_a_forecast_says_whether_the_rest_suffices_if_a_rate_is_known() -> None:
    # 100 of 400 steps in an hour: three hours more.
    known = {"train": progress(done=200, total=400, samples=((0.0, 100), (300.0, 200)))}
    given = budget("kubernetes.max_hours=10")
    assert forecast(given, Spent(HOUR), ["train"], known) == (
        "used 1.0 of 10 hours (kubernetes.max_hours); at the last recorded rate train needs 0.17 hours more: "
        "the limit suffices"
    )
    slow = {"train": progress(done=200, total=1_000_000, samples=((0.0, 100), (300.0, 200)))}
    assert forecast(given, Spent(HOUR), ["train"], slow).endswith(
        "the limit does not suffice, and the run will stop before its end; --set kubernetes.max_hours=840 would"
    )
    assert "how long fit will take is not known yet" in forecast(given, Spent(), ["train", "fit"], known)
    done = {"train": progress(done=400, total=400, finished=100.0)}
    assert "train needs 0 hours more: the limit suffices" in forecast(given, Spent(), ["train"], done)

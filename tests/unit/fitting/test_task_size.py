"""How many scans a task gets, and the trial that measures it."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.fitting import trial_fit as trial
from medfuncta_dist.fitting.fit_driver import locate_table, task_of
from medfuncta_dist.fitting.fit_task import FitTask
from medfuncta_dist.fitting.task_size import (
    LEAST_SECONDS,
    PART_BYTES,
    RECORD_SCANS,
    TASKS_PER_WORKER,
    Limits,
    scans_per_task,
)
from medfuncta_dist.fitting.trial_fit import trial_fit
from medfuncta_dist.network.core_settings import stored_settings
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.streaming.sample_reader import SampleReader
from tests.kinds import BY_KIND
from tests.unit.latents.fitted import ready

RATES = st.floats(1e-3, 1e6)
LIMITS = st.builds(
    Limits,
    batch=st.integers(1, 512),
    largest_shard=st.integers(1, 10**6),
    scans=st.integers(0, 10**8),
    workers=st.integers(1, 1000),
    latent_bytes=st.integers(1, 10**6),
)


@given(RATES, LIMITS)
def test_a_task_has_whole_batches_and_takes_long_enough_unless_a_limit_is_smaller(rate, limits):
    chosen = scans_per_task(rate, limits)
    batches, rest = divmod(chosen, limits.batch)
    assert rest == 0
    assert 1 <= batches <= limits.most_batches
    if batches < limits.most_batches:
        assert chosen / rate >= LEAST_SECONDS * (1 - 1e-9)
    if batches > 1:  # and not a batch longer than that
        assert (chosen - limits.batch) / rate < LEAST_SECONDS * (1 + 1e-9)


@given(RATES, LIMITS)
def test_no_task_is_larger_than_a_limit_but_for_the_batch_that_it_needs(rate, limits):
    chosen = scans_per_task(rate, limits)
    if chosen > limits.batch:
        assert chosen < limits.largest_shard + limits.batch
        assert chosen * limits.latent_bytes <= PART_BYTES
        assert chosen <= RECORD_SCANS
        assert limits.scans / chosen >= TASKS_PER_WORKER * limits.workers


@given(RATES, RATES, LIMITS)
def test_a_faster_worker_gets_no_less(rate, other, limits):
    slower, faster = sorted((rate, other))
    assert scans_per_task(slower, limits) <= scans_per_task(faster, limits)


@given(LIMITS)
def test_the_least_of_the_limits_is_what_the_fastest_worker_gets(limits):
    assert scans_per_task(1e30, limits) == limits.batch * limits.most_batches
    alone = replace(limits, largest_shard=10**9, scans=10**15, workers=1, latent_bytes=1)
    assert alone.most_batches == max(1, RECORD_SCANS // limits.batch)


def trial_of(run) -> FitTask:
    store = ObjectStore(run.storage)
    target = locate_table(run, store)
    settings = stored_settings(run, load_network(store, target.network))
    work = max(target.works, key=lambda work: work.shard.samples)
    return task_of(run, target, replace(work, start=0, stop=work.shard.samples), settings, ALONE)


def stored(run) -> list[str]:
    return sorted(info.path for info in ObjectStore(run.storage).list(""))


@BY_KIND
@pytest.mark.parametrize("batch", [3, 64], ids=["several batches in the shard", "less than one"])
def test_a_trial_fits_and_writes_nothing(tmp_path, kind, batch):
    run = ready(tmp_path, kind, fit={"batch": batch})
    before = stored(run)
    rate = trial_fit(trial_of(run))
    assert 0 < rate < math.inf
    assert stored(run) == before


def test_a_rate_is_that_of_the_slower_of_reading_and_fitting(tmp_path, monkeypatch):
    task = trial_of(ready(tmp_path, fit={"batch": 4, "steps": 1}))
    read = SampleReader.read
    monkeypatch.setattr(SampleReader, "read", lambda self, sample: (time.sleep(0.05), read(self, sample))[1])
    assert 4 < trial_fit(task) < 20


def test_what_warms_a_worker_up_is_not_in_its_rate(tmp_path, monkeypatch):
    task = trial_of(ready(tmp_path, fit={"batch": 4, "steps": 1}))
    batches, real = [], trial.launched

    def slow_at_first(task, sent):
        batches.append((task.work.start, task.work.stop))
        time.sleep(1 if len(batches) == 1 else 0)
        return real(task, sent)

    monkeypatch.setattr(trial, "launched", slow_at_first)
    assert trial_fit(task) > 4
    assert batches == [(0, 4), (4, 8)], "its second batch is another one, as a task's is"


def test_a_slow_cpu_is_tried_once(tmp_path, monkeypatch):
    task = trial_of(ready(tmp_path, fit={"batch": 4, "steps": 1}))
    monkeypatch.setattr(trial, "LEAST_SECONDS", 0.05)
    batches, real = [], trial.launched

    def slow(task, sent):
        batches.append(task.work.start)
        time.sleep(0.1)
        return real(task, sent)

    monkeypatch.setattr(trial, "launched", slow)
    assert trial_fit(task) < 40
    assert batches == [0]


def test_scans_that_cannot_be_used_do_not_end_a_trial(tmp_path, monkeypatch):
    run = ready(tmp_path, fit={"batch": 4})
    monkeypatch.setattr("medfuncta_dist.shards.sample.Sample.fill", lambda self, points: points.fill(torch.nan))
    assert trial_fit(trial_of(run)) > 0

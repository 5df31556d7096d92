from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.config.stage_names import KNOWN, STAGES
from medfuncta_dist.submit.manifest import job_names

RUNS = st.from_regex(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True)
CHAINS = st.lists(st.sampled_from(STAGES), min_size=1, max_size=4, unique=True).map(job_names.join_stages)
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")


@given(RUNS, CHAINS, st.integers(1, 10**9))
def test_every_run_stage_and_attempt_has_a_name_that_kuberay_takes(run, stage, attempt):
    name = job_names.make_rayjob_name(run, stage, attempt)
    assert len(name) <= 47
    assert DNS_1035.fullmatch(name)


@given(st.lists(st.tuples(RUNS, CHAINS, st.integers(1, 200)), min_size=2, max_size=8, unique=True))
def test_no_two_share_a_name(jobs):
    assert len({job_names.make_rayjob_name(*job) for job in jobs}) == len(jobs)


def test_names_that_differ_in_their_last_letter_only_stay_apart():
    run = "a" * 39
    assert job_names.make_rayjob_name(run + "b", "pack.train.fit.evaluate", 999) != job_names.make_rayjob_name(
        run + "c", "pack.train.fit.evaluate", 999
    )


def test_a_name_is_readable_where_it_fits():
    assert job_names.make_rayjob_name("chest-xray-64", "train", 1) == "chest-xray-64-train-1"
    assert job_names.make_rayjob_name("chest-xray-64", "pack.train.fit.evaluate", 2) == "chest-xray-64-ptfe2"
    assert job_names.make_rayjob_name("a" * 40, "evaluate", 12) == "a" * 40 + "-e12"


def test_the_stages_differ_in_their_letters():
    assert len({job_names.make_rayjob_name("a" * 40, stage, 12) for stage in KNOWN}) == len(KNOWN)
    assert job_names.make_rayjob_name("a" * 40, "prior", 12) == "a" * 40 + "-r12"


@given(st.text(max_size=80), st.text(max_size=80))
def test_label_values_are_legal_whatever_the_text(submission, commit):
    for value in job_names.make_labels("run", "pack.train", 1, submission, "f" * 64, commit).values():
        assert len(value) <= 63
        assert LABEL_VALUE.fullmatch(value)


def test_a_selector_finds_what_the_labels_say():
    labels = job_names.make_labels("ecg", "train", 3, "job-1", "0" * 64, "abc")
    assert job_names.make_label_selector(run="ecg", stage="train") == "medfuncta.dev/run=ecg,medfuncta.dev/stage=train"
    assert (
        job_names.make_label_selector(run_file_digest=labels[job_names.RUN_FILE_DIGEST_LABEL])
        == f"medfuncta.dev/run-file-digest={'0' * 63}"
    )

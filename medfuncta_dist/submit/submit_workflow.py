"""submit --workflow: reserves the names of all jobs of a chain in storage, then builds the Argo Workflow of them.

Argo applies a job by its name: under the name of a job that has finished, nothing would run, and the step would count
as done.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from medfuncta_dist.errors import RunChangedError, RunFileError
from medfuncta_dist.storage.leases.compare_and_swap import ConditionalStore
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.backends.backend import Backend
from medfuncta_dist.submit.manifest.argo_workflow import build_workflow
from medfuncta_dist.submit.manifest.job_names import hash_idempotency_key
from medfuncta_dist.submit.status.job_records import (
    SubmissionRecord,
    create_job_record,
    delete_job_record,
    read_job_records,
)
from medfuncta_dist.submit.status.spending import compute_spent
from medfuncta_dist.submit.submit_jobs import (
    SubmissionRequest,
    make_submission_record,
    name_taken_error,
    read_stage_progress,
    render_manifests,
)

RECORD_INTERVAL_S = 1e-3
"""Between the times of two records: sorted by time, they are in the order of the stages."""


def submit_workflow(request: SubmissionRequest, backend: Backend) -> dict[str, Any]:
    """The Workflow of a request; each of its jobs is recorded as its next attempt.

    RunFileError for a backend that runs no workflows; StorageError when storage does not answer; RunChangedError when
    the idempotency key was used before.
    """
    if not backend.runs_workflows:
        raise RunFileError(
            f"--workflow needs Kubernetes, where Argo runs; the backend is {backend.name}",
            do="leave --backend out, or use --follow instead of --workflow",
        )
    run, store = request.run, ObjectStore(request.run.storage)
    earlier = read_job_records(store, run.name)
    _require_new_key(request, earlier)
    spent = compute_spent(run, read_stage_progress(run, store))
    workflow = build_workflow(render_manifests(request, earlier, backend, spent))
    records = _make_records(request, earlier, backend, workflow["metadata"]["name"])
    _create_records(store, run.name, records)
    return workflow


def _make_records(
    request: SubmissionRequest, earlier: Sequence[SubmissionRecord], backend: Backend, workflow: str
) -> list[SubmissionRecord]:
    """One record per job, a little apart in time."""
    now = time.time()
    records = [make_submission_record(request, stages, earlier, backend) for stages in request.jobs]
    return [
        replace(record, time=now + number * RECORD_INTERVAL_S, workflow=workflow)
        for number, record in enumerate(records)
    ]


def _require_new_key(request: SubmissionRequest, earlier: Sequence[SubmissionRecord]) -> None:
    if request.idempotency_key is None:
        return
    key = hash_idempotency_key(request.idempotency_key)
    for record in earlier:
        if record.idempotency_key == key:
            raise RunChangedError(
                f"this idempotency key was used before, for {record.name}",
                do="use a new key for a new workflow; a workflow that exists is continued by Argo",
            )


def _create_records(store: ObjectStore, run: str, records: Sequence[SubmissionRecord]) -> None:
    """Create all of the records, or none."""
    conditional = ConditionalStore.probe(store)
    for number, record in enumerate(records):
        if not create_job_record(conditional, run, record):
            for created in records[:number]:
                delete_job_record(store, run, created.name)
            raise name_taken_error(record.name)

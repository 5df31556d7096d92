"""submit --workflow: the names of all jobs of a chain taken in storage, and then the Argo Workflow that sends them.

Argo applies a job by its name, and a name that a finished job had would change nothing and count as done.
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
from medfuncta_dist.submit.backends.kubernetes.kubernetes_jobs import KubernetesJobs
from medfuncta_dist.submit.manifest.argo_workflow import workflow
from medfuncta_dist.submit.manifest.job_names import key_label
from medfuncta_dist.submit.status.job_records import Submitted, create_job, delete_job, read_jobs
from medfuncta_dist.submit.submit_jobs import Request, manifests, record_of, taken

APART_S = 1e-3
"""Between the times of two records: by time they stand in the chain's order."""


def planned(request: Request, backend: Backend) -> dict[str, Any]:
    """The Workflow of a request, each of its jobs recorded as its next attempt. StorageError without an answer from
    storage; RunChangedError when the idempotency key has led to a job already; RunFileError for another backend."""
    if backend.name != KubernetesJobs.name:
        raise RunFileError("Argo runs on Kubernetes only", do="leave --backend ray out, or use --follow")
    store = ObjectStore(request.run.storage)
    recorded = read_jobs(store, request.run.name)
    _require_new_key(request, recorded)
    made = workflow(manifests(request, recorded, backend))
    now, name = time.time(), made["metadata"]["name"]
    records = [record_of(request, stages, recorded, backend) for stages in request.jobs]
    _create(store, request.run.name, [replace(r, time=now + i * APART_S, workflow=name) for i, r in enumerate(records)])
    return made


def _require_new_key(request: Request, recorded: Sequence[Submitted]) -> None:
    key = None if request.key is None else key_label(request.key)
    for submitted in recorded:
        if key is not None and submitted.idempotency_key == key:
            raise RunChangedError(
                f"this idempotency key has led to {submitted.name} already",
                do="a new workflow needs a new key; Argo runs the one that it has by itself",
            )


def _create(store: ObjectStore, run: str, records: Sequence[Submitted]) -> None:
    """All of the records, or none."""
    conditional = ConditionalStore.probe(store)
    for number, record in enumerate(records):
        if not create_job(conditional, run, record):
            for made in records[:number]:
                delete_job(store, run, made.name)
            raise taken(record.name)

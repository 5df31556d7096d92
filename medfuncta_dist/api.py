"""The stages and submissions as functions: what the commands do, for Python programs and notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medfuncta_dist.config import load
from medfuncta_dist.config.run_file import RunFile

RunLike = RunFile | str | Path
"""A run file as an object, or the path of one."""
Figures = dict[str, Any]
"""What a stage reports, as in the run's summary.json: plain values, PSNR in dB, times in seconds."""


def load_run_file(run: RunLike, overrides: Sequence[str] = ()) -> RunFile:
    """A validated run file.

    Args:
        run: the path of a YAML file. A ``RunFile`` is returned as it is; it takes no overrides.
        overrides: ``section.key=value`` texts, as after ``--set``.

    Raises:
        RunFileError: names every key that is wrong, with its value and what was expected.

    Examples:
        >>> run = load_run_file("my-xrays.yaml", ["train.steps=1000"])
        >>> run.train.steps
        1000
    """
    if isinstance(run, RunFile):
        if overrides:
            raise TypeError("overrides change a file as it is read; give the path of the run file")
        return run
    return load.load(run, overrides)


def pack(run: RunLike, overrides: Sequence[str] = ()) -> Figures:
    """Scans to shards; what is packed already is not packed again. Returns counts and the snapshot's digest.

    Raises:
        MedfunctaError: with what, where, and what to do next (see ``medfuncta_dist.errors``).

    Examples:
        >>> pack("my-xrays.yaml")["counts"]["packed"] > 0
        True
    """
    return _stage("pack", run, overrides)


def train(run: RunLike, overrides: Sequence[str] = ()) -> Figures:
    """Meta-learn the shared network, from the last checkpoint if there is one. Starts Ray, or uses RAY_ADDRESS.

    Raises:
        MedfunctaError: as ``pack``; InterruptedRunError when it was stopped, and can be resumed by the same call.

    Examples:
        >>> train("my-xrays.yaml")["psnr"] > 0
        True
    """
    return _stage("train", run, overrides)


def fit(run: RunLike, overrides: Sequence[str] = ()) -> Figures:
    """One latent per scan; scans that have one are not fitted again. Returns counts, and PSNR (dB) per split.

    Raises:
        MedfunctaError: as ``pack``; StageOrderError before there is a network.

    Examples:
        >>> fit("my-xrays.yaml")["counts"]["fitted"] > 0
        True
    """
    return _stage("fit", run, overrides)


def evaluate(run: RunLike, overrides: Sequence[str] = ()) -> Figures:
    """Scores of every fitted scan, and the report. Returns the figures, and the report's URI under ``report``.

    Raises:
        MedfunctaError: as ``pack``; StageOrderError before scans are fitted.

    Examples:
        >>> evaluate("my-xrays.yaml")["report"].endswith("report.html")
        True
    """
    return _stage("evaluate", run, overrides)


def submit_stages(
    run: RunLike,
    stages: Sequence[str],
    *,
    overrides: Sequence[str] = (),
    backend: str = "kubernetes",
    address: str | None = None,
    context: str | None = None,
    dry_run: bool = False,
    overlays: Sequence[str] = (),
    idempotency_key: str | None = None,
) -> Figures:
    """Submit the first of the stages that is due as a job of a cluster; asked again, the next one.

    Args:
        stages: any of ``pack``, ``train``, ``fit``, ``evaluate``, in this order.
        backend: ``kubernetes`` (KubeRay), or ``ray`` (a Ray cluster that is already running).
        address: URL of that Ray cluster's dashboard.
        context: context of the kubeconfig; None for the current one.
        dry_run: send nothing, and return every manifest under ``manifests``.
        overlays: further overlays of the manifest, after the run file's.

    Returns:
        ``job`` (its name), ``new`` (whether this call made it) and ``left`` (stages that wait for it).

    Raises:
        MedfunctaError: RunFileError names all that is wrong with the manifests; StageOrderError before what a stage
            reads from is complete; ClusterError when the cluster refuses.

    Examples:
        >>> len(submit_stages("my-xrays.yaml", ["pack", "train"], dry_run=True)["manifests"])
        2
    """
    from medfuncta_dist.stages import readiness
    from medfuncta_dist.submit import submit_jobs
    from medfuncta_dist.submit.backends.backend import BackendOptions
    from medfuncta_dist.submit.backends.registry import open_backend, parse_backend_name

    loaded = load_run_file(run, overrides)
    request = submit_jobs.SubmissionRequest(loaded, tuple(stages), tuple(overlays), idempotency_key=idempotency_key)
    client = open_backend(parse_backend_name(backend), BackendOptions(address, context, loaded.kubernetes.namespace))
    if dry_run:
        earlier, spent, _ = submit_jobs.read_earlier_jobs(loaded)
        manifests = submit_jobs.render_manifests(request, earlier, client, spent)
        return {"manifests": [client.build_payload(manifest) for manifest in manifests]}
    result = submit_jobs.submit_next_job(request, client, readiness)
    return {"job": result.name, "new": result.is_new, "left": list(result.remaining)}


def _stage(name: str, run: RunLike, overrides: Sequence[str]) -> Figures:
    from medfuncta_dist.stages.chain import run_stages

    figures: Figures = run_stages(load_run_file(run, overrides), [name])[name]
    return figures

"""Every metric that this tool exports to Prometheus, with its meaning. Imports nothing. docs/metrics.md comes from it:

python -m medfuncta_dist.telemetry.metric_catalogue > docs/metrics.md
"""

from __future__ import annotations

from dataclasses import dataclass

PREFIX = "medfuncta"


@dataclass(frozen=True)
class Metric:
    """``source`` is the name in the run's events; ``kind`` gauge or counter. All have the tag ``run``."""

    stage: str
    name: str
    unit: str
    meaning: str
    kind: str = "gauge"
    source: str = ""
    tags: tuple[str, ...] = ("run",)

    @property
    def exported(self) -> str:
        """As code names it; Ray puts ``ray_`` before it and, for a counter, ``_total`` behind."""
        return f"{PREFIX}_{self.stage}_{self.name}"

    @property
    def prometheus(self) -> str:
        """As Prometheus has it."""
        return f"ray_{self.exported}{'_total' if self.kind == 'counter' else ''}"


def _train(name: str, unit: str, meaning: str, kind: str = "gauge", source: str = "") -> Metric:
    return Metric("train", name, unit, meaning, kind, source)


TRAIN = (
    _train("step", "steps", "Outer steps taken since the run began."),
    _train("steps_per_s", "steps/s", "Speed since the last log line, data waits included.", source="s_per_step"),
    _train("scans_per_s", "scans/s", "Scans that outer steps process per second.", source="samples_per_s"),
    _train("data_wait", "0..1", "Share of the time in which workers waited for data; above 0.2 the storage is slow."),
    _train("goodput", "0..1", "Share of all time spent on new steps, without their wait for data."),
    _train("loss", "", "Mean outer loss since the last log line."),
    _train("psnr", "dB", "Mean PSNR of held-out scans, last measurement."),
    _train("rate", "", "Step size of the outer optimiser."),
    _train("gradient_norm", "", "Norm of the whole meta-gradient, before clipping."),
    _train("condition", "", "Condition number of a basis field's solve; beyond 1e8, raise meta.ridge."),
    _train("ridge", "", "Ridge of a basis field's solve: meta.ridge, or more where rounding errors outweighed that."),
    _train("checkpoint_interval_s", "s", "Seconds between checkpoints, chosen from their cost."),
    _train("checkpoint_stall_s", "s", "How long training waited for the last checkpoint."),
    _train("checkpoint_upload_s", "s", "From then until its commit record was written, while training continued."),
    _train("checkpoint_time", "s", "When the last checkpoint was committed (Unix time): its age is time() minus this."),
    _train(
        "recovery_s", "s", "From the last sign of life of an attempt that ended early to the first step of the next."
    ),
    _train("redone_steps", "steps", "Steps that were repeated after the last recovery."),
    _train("preemption_save_s", "s", "From the notice that a node is drained until the checkpoint was committed."),
    _train("preemptions", "", "Notices that a node is drained; training saves a checkpoint for each.", kind="counter"),
)
EVENTS = Metric("train", "events", "", "Run events.", "counter", tags=("run", "event"))


def _driver(stage: str, unit: str, *more: Metric) -> tuple[Metric, ...]:
    return (
        Metric(stage, "done", unit, f"{unit.capitalize()} done, including earlier jobs."),
        Metric(stage, "total", unit, f"Total number of {unit}."),
        Metric(stage, "starts", "", "Drivers and worker groups that began this stage: 1, plus one per restart."),
        *more,
    )


def _quarantined(stage: str) -> Metric:
    return Metric(stage, "quarantined", "scans", "Quarantined scans and sources, over all jobs.")


def _scans_per_s(stage: str) -> Metric:
    return Metric(stage, "scans_per_s", "scans/s", "Scans done per second, over up to ten minutes.")


_PACK_BYTES = (
    Metric("pack", "bytes_done", "bytes", "Bytes of the archive that are done, including earlier jobs."),
    Metric("pack", "bytes_total", "bytes", "Bytes of the archive."),
    Metric("pack", "bytes_per_s", "bytes/s", "Bytes of the archive done per second, over up to ten minutes."),
)

METRICS: tuple[Metric, ...] = (
    *TRAIN,
    EVENTS,
    Metric("train", "total", "steps", "Total number of outer steps."),
    Metric("train", "starts", "", "Drivers and worker groups that began this stage: 1, plus one per restart."),
    *_driver("pack", "sources", _scans_per_s("pack"), *_PACK_BYTES, _quarantined("pack")),
    *_driver("fit", "scans", _scans_per_s("fit"), _quarantined("fit")),
    *_driver("evaluate", "tasks"),
    *_driver("prior", "steps"),
)


def reference() -> str:
    """docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Runs export these metrics through Ray's metrics agent (port 8080 of every pod, `/metrics`), beside Ray's own.",
        "All have the tag `run`. Generated from `medfuncta_dist/telemetry/metric_catalogue.py`.",
        "",
        "| in Prometheus | unit | meaning |",
        "|---|---|---|",
        *(f"| `{metric.prometheus}` | {metric.unit} | {metric.meaning}{_tags(metric)} |" for metric in METRICS),
        "",
        "A gauge keeps its last value until its process ends. A run that waits in a queue exports nothing;",
        "`medfuncta-dist status` reads the state of such a run from storage.",
    ]
    return "\n".join(lines) + "\n"


def _tags(metric: Metric) -> str:
    more = [tag for tag in metric.tags if tag != "run"]
    return f" Also by `{more[0]}`." if more else ""


if __name__ == "__main__":
    print(reference(), end="")

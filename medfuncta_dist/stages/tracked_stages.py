"""Training and fitting of a run as runs of Weights & Biases, from what they have left in storage.

Training writes its own W&B run while it works; fitting's is written here when it ends. Both can be written again, at
any time and on any machine that reads the storage: a cluster's nodes are often offline, and gone afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import StageOrderError
from medfuncta_dist.network.committed_network import committed_network
from medfuncta_dist.network.run_artifacts import dataset_artifact, network_artifact, table_artifact
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.stages import run_summary
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.wandb_runs.open_wandb import open_wandb
from medfuncta_dist.telemetry.wandb_runs.tracked_run import TrackedRun, tracked_table, tracked_training

if TYPE_CHECKING:
    from medfuncta_dist.telemetry.wandb_runs.wandb_sink import WandbSink

FIT_AGAIN = (
    "the fit stage of an earlier version has left no digest of its table: run fit again, which fits nothing anew"
)


def track_fit(run: RunFile, store: ObjectStore, figures: Mapping[str, Any]) -> None:
    """Write the W&B run of a fit stage that has just ended with these figures, if the run file asks for one. Whatever
    goes wrong is said, and ends nothing."""
    if run.telemetry.wandb == "off":
        return
    try:
        _write(run, tracked_table(run.name, figures["table"]), None, lambda sink: _log_fit(sink, run, store, figures))
    except Exception as error:
        _say(f"telemetry: the fit stage is not in Weights & Biases: {error}")


def track_run(run: RunFile, folder: Path) -> dict[str, Any]:
    """Write the W&B runs of a run's training and of its latent table below ``folder``, or online.

    StageOrderError where nothing was trained. What W&B or the storage says is raised.
    """
    store = ObjectStore(run.storage)
    figures = run_summary.load(store, run.name).get("fit")
    training = tracked_training(store, run.name, _say)
    history = training.history()
    if not history:
        what, do = "nothing was trained yet", "run the train stage first"
        raise StageOrderError(what, where=store.uri(f"runs/{run.name}/events"), do=do)
    written = [_write(run, training, folder, lambda sink: _log_training(sink, run, store, history[-1][0]))]
    said = []
    if figures is not None and "table" in figures:
        table = tracked_table(run.name, figures["table"])
        written.append(_write(run, table, folder, lambda sink: _log_fit(sink, run, store, figures)))
    elif figures is not None:
        said.append(FIT_AGAIN)
    return {"runs": written, "said": [*map(_written_text, written), *said]}


def _write(run: RunFile, tracked: TrackedRun, folder: Path | None, log: Callable[[WandbSink], None]) -> dict[str, Any]:
    with closing(open_wandb(run, tracked, _say, folder)) as sink:
        log(sink)
        where = str(sink.folder) if sink.offline else None
    return {"id": tracked.id, "stage": tracked.job, "folder": where}


def _log_training(sink: WandbSink, run: RunFile, store: ObjectStore, last: int) -> None:
    """All numbers up to the last outer step, the data set, and the network if it is there."""
    sink.catch_up(last)
    done = committed_network(store, run.name)
    if done is not None:
        sink.artifact(dataset_artifact(load_snapshot(store, run.dataset, done.dataset_digest)), "input")
        sink.artifact(network_artifact(run.name, done, store, with_files=run.telemetry.networks), "output")


def _log_fit(sink: WandbSink, run: RunFile, store: ObjectStore, figures: Mapping[str, Any]) -> None:
    """The table's PSNR and counts, the data set and the network that it is of, and the table."""
    psnr = {f"psnr/{split}": spread["mean"] for split, spread in figures["psnr"].items()}
    sink.log(0, psnr | {name: float(count) for name, count in figures["counts"].items()})
    sink.artifact(dataset_artifact(load_snapshot(store, run.dataset, figures["dataset"])), "input")
    done = committed_network(store, run.name)
    if done is not None and done.digest == figures["network"]:
        sink.artifact(network_artifact(run.name, done, store, with_files=run.telemetry.networks), "input")
    sink.artifact(table_artifact(run.name, figures), "output")


def _written_text(written: Mapping[str, Any]) -> str:
    if written["folder"] is None:
        return f"{written['stage']}: W&B run {written['id']} is up to date"
    return f"{written['stage']}: W&B run {written['id']}; `wandb sync {written['folder']}` uploads it"


def _say(text: str) -> None:
    print(text, file=sys.stderr)

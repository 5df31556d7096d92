"""The command ``import-network``: a network of the public code becomes a folder of its own, or a run's network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.exchange.held_run import HeldRun, hold_run
from medfuncta_dist.exchange.public_modules import STAND_INS
from medfuncta_dist.exchange.public_network import PublicNetwork, Schedule, parse, spec_of, to_ours
from medfuncta_dist.exchange.torch_file import RefusedFileError, load
from medfuncta_dist.fields.network_record import network_folder
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.network.committed_network import (
    IMPORTED,
    KIND,
    Committed,
    committed_network,
    record_path,
    store_network,
)
from medfuncta_dist.network.core_settings import field_spec, inner_of
from medfuncta_dist.network.network_loader import LARGEST_WEIGHTS
from medfuncta_dist.network.start_network import differences
from medfuncta_dist.shards.snapshot import newest_snapshot
from medfuncta_dist.storage.local_objects import replacing
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import NewRecord, publish
from medfuncta_dist.version import __version__

NAME_A_FILE = "name a state dict of the public code (last.model, best.model), or its whole module (model.pt)"
NO_OMEGA = "a state dict does not tell ω: say w0 and w0_increment of the configuration that it was trained with"
GIVE_OMEGA = "for the published configurations: --w0 10 --w0-increment 5"


def read_public_network(
    file: str | Path, schedule: Schedule | None = None, shape: Sequence[int] | None = None
) -> SharedNetwork:
    """A network of the public code, from a state dict or a whole module.

    Args:
        file: a local file or an ``s3://`` URI.
        schedule: ω, and whether there are skip connections. Needed for a state dict, which tells neither; of a module,
            it is checked.
        shape: points per axis of the scans that it is for, if known.

    Raises:
        RunFileError: the file is no such network, claims more than it holds, names Python objects that a file of
            numbers does not need, or its ω are missing.

    Examples:
        >>> network = read_public_network("best.model", Schedule(w0=10, increment=5))
        >>> network.spec.modulate_first
        True
    """
    public = _read(file)
    if schedule is None and public.omegas is None:
        raise RunFileError(NO_OMEGA, where=str(file), do=GIVE_OMEGA)
    omegas, residual = _known(public, schedule)
    with _naming(file):
        spec = spec_of(public, omegas, residual)
        contract: dict[str, Any] = {"channels": spec.channels} | ({"shape": list(shape)} if shape else {})
        return SharedNetwork(spec, to_ours(public, spec), contract, {}, IMPORTED, __version__)


def import_to_folder(
    file: str, folder: Path, schedule: Schedule | None, shape: Sequence[int] | None = None
) -> dict[str, Any]:
    """Write ``network.safetensors`` and ``network.json`` into a local folder; the figures of the command."""
    network = read_public_network(file, schedule, shape)
    if folder.exists() and any(folder.iterdir()):
        raise RunFileError("the folder is not empty", where=str(folder), do="name a new one, or remove what is in it")
    _write_folder(network, folder)
    said = [f"import-network: {_sizes(network)} in {folder}, {network.digest[:12]}", *_run_file_lines(network.spec)]
    return {"network": network.digest, "folder": str(folder), "spec": asdict(network.spec), "said": said}


def _write_folder(network: SharedNetwork, folder: Path) -> None:
    """One whole file after the other: a folder that lacks one of them is no network for any reader."""
    for name, data in network.to_files().items():
        with replacing(folder / name) as part:
            part.write_bytes(data)


def import_to_run(run: RunFile, file: str) -> dict[str, Any]:
    """Make it the shared network of a run, whose run file gives ω; the figures of the command.

    Raises:
        RunFileError: as ``read_public_network``; or the run file describes another architecture, or the run has another
            network, or has begun to train one.
    """
    wanted = field_spec(run)
    if not isinstance(wanted, SirenSpec):
        raise RunFileError("the public code has no fields of this kind", where="field.kind", do="set it to siren")
    public = _read(file)
    if public.layers != wanted.layers:
        what = f"field.layers is {wanted.layers}, the file's network has {public.layers}"
        raise RunFileError(what, where=file, do=f"set field.layers to {public.layers}")
    with _naming(file):
        residual = wanted.residual if public.residual is None else public.residual
        spec = spec_of(public, public.omegas or wanted.omegas, residual)
        params = to_ours(public, spec)
    with hold_run(run) as held:
        network = _for_run(held, spec, params)
        new = _commit(held, network, file)
    said = f"import-network: {_sizes(network)} is the network of run {run.name}, {network.digest[:12]}"
    return {"run": run.name, "network": network.digest, "new": new, "said": [said if new else f"{said}, as before"]}


def _read(file: str | Path) -> PublicNetwork:
    store, name = _place(str(file))
    with _naming(file):
        return parse(load(store.read(name, limit=LARGEST_WEIGHTS), STAND_INS))


def _place(file: str) -> tuple[ObjectStore, str]:
    folder, _, name = file.rpartition("/")
    if not name:
        raise RunFileError("this is a folder", where=file, do=NAME_A_FILE)
    return ObjectStore(folder or ("/" if file.startswith("/") else ".")), name


@contextmanager
def _naming(file: str | Path) -> Iterator[None]:
    """A refusal in the block becomes an error that names the file."""
    try:
        yield
    except RefusedFileError as error:
        raise RunFileError(f"this file is not imported: {error.what}", where=str(file), do=NAME_A_FILE) from error


def _known(public: PublicNetwork, schedule: Schedule | None) -> tuple[tuple[float, ...], bool]:
    """ω and residual, by the file where it tells them."""
    if schedule is None:
        return public.omegas or (), public.residual is not False
    given = schedule.omegas(public.layers)
    if public.omegas is not None and (public.omegas, public.residual) != (given, schedule.residual):
        raise RunFileError(
            f"the module has ω from {public.omegas[0]:g} to {public.omegas[-1]:g}, and "
            f"{'' if public.residual else 'no '}skip connections: the options say otherwise",
            do="leave them out: a module tells both",
        )
    return given, schedule.residual


def _for_run(held: HeldRun, spec: SirenSpec, params: Any) -> SharedNetwork:
    """As the run's data set and its run file describe it. RunFileError names the keys that differ."""
    run = held.run
    snapshot = newest_snapshot(held.store, run.dataset) if run.data.snapshot is None else None
    data = {"shape": list(run.data.shape), "channels": run.data.channels}
    contract = data if snapshot is None else dict(snapshot.contract)
    network = SharedNetwork(spec, params, contract, inner_of(run), IMPORTED, __version__)
    if found := differences(run, network):
        raise RunFileError(
            "the run file describes another architecture than the file's:\n  " + "\n  ".join(found),
            where="field",
            do="give these keys the network's values",
        )
    return network


def _commit(held: HeldRun, network: SharedNetwork, file: str) -> bool:
    """Whether it is new. RunFileError where the run has another one."""
    run, store = held.run, held.store
    done = committed_network(store, run.name)
    if done is not None and done.digest == network.digest:
        return False
    if done is not None or store.list(f"runs/{run.name}/checkpoints"):
        what = f"run {run.name} has a network already, or has begun to train one"
        raise RunFileError(what, where=store.uri(network_folder(run.name)), do="import into a run of another name")
    files = store_network(store, network_folder(run.name), network)
    record = Committed(network.digest, files, 0, None, None, IMPORTED, run.digest())
    body = {name: value for name, value in asdict(record).items() if name != "started_from"}
    publish(store, held.fence, NewRecord(record_path(run.name), KIND, body))
    return True


def _sizes(network: SharedNetwork) -> str:
    spec = network.spec
    return f"a network of {spec.layers} layers of {spec.hidden}, latents of {spec.latent} numbers,"


def _run_file_lines(spec: Any) -> list[str]:
    """What a run file must say of it."""
    omegas = "[" + ", ".join(f"{omega!r}" for omega in spec.omegas) + "]"
    first = {"layers": spec.layers, "hidden": spec.hidden, "latent": spec.latent, "omegas": omegas}
    last = {"residual": str(spec.residual).lower(), "modulate_first": "true"}
    return ["in a run file:", "field:", *(f"  {key}: {value}" for key, value in (first | last).items())]

"""A warm start: training begins with the trained network of another run (``train.start_from``) instead of a drawn one.

It is copied into the run before its first step, under its digest, so that every later start of the run begins with the
same bits, whatever becomes of the other run.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.section import NAME
from medfuncta_dist.errors import ObjectMissingError, RunFileError, StageOrderError
from medfuncta_dist.fields.basis import BasisSpec
from medfuncta_dist.fields.field_kinds import FieldSpec, describe
from medfuncta_dist.fields.network_record import RECORD_FILE, files_below
from medfuncta_dist.fields.params import Params
from medfuncta_dist.fields.shared_network import (
    DESCRIPTION_FILE,
    LARGEST_DESCRIPTION,
    WEIGHTS_FILE,
    SharedNetwork,
)
from medfuncta_dist.meta.learner import Learner
from medfuncta_dist.meta.outer_loop import LOG_RATES
from medfuncta_dist.network.committed_network import KIND as NETWORK
from medfuncta_dist.network.committed_network import NetworkRef, published_network, store_network
from medfuncta_dist.network.core_settings import field_spec
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.network.start_record import KIND, Start, start_folder, start_path, started_from
from medfuncta_dist.storage.commit_record import read_record
from medfuncta_dist.storage.digest import sha256_bytes
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard, NewRecord, publish

KEY = "train.start_from"
KEYS = {"coords": "the number of axes of data.shape", "channels": "data.channels"}
"""What of an architecture the run file does not give in the section ``field``."""


def check_start(run: RunFile, store: ObjectStore) -> str | None:
    """Digest of the network that the run starts from, or would; None for a run that draws its own.

    Raises:
        StageOrderError: there is no such network.
        RunFileError: it is of another architecture than the run file's, or the run's own.
        IntegrityError: it is damaged.
    """
    if run.train.start_from is None:
        return None
    return started_from(store, run.name) or _source(run, store).digest


def take_start(run: RunFile, store: ObjectStore, fence: Guard) -> str | None:
    """The same, once the network is copied into the run. LeaseLostError where the lease was lost."""
    if run.train.start_from is None:
        return None
    if (taken := started_from(store, run.name)) is not None:
        return taken
    network = _source(run, store)
    store_network(store, start_folder(run.name), network)
    publish(store, fence, NewRecord(start_path(run.name), KIND, asdict(Start(network.digest))))
    return network.digest


def load_start(run: str, store: ObjectStore) -> SharedNetwork | None:
    """The network that was copied into a run; None where there is none. IntegrityError where it is damaged."""
    digest = started_from(store, run)
    if digest is None:
        return None
    weights, description = (f"{start_folder(run)}/{digest}/{file}" for file in (WEIGHTS_FILE, DESCRIPTION_FILE))
    return load_network(store, NetworkRef(weights, description, digest))


def first_params(learner: Learner, network: SharedNetwork) -> Params:
    """What a learner's parameters begin with: θ without a basis field's map, which training computes anew; and inner
    rates, where both runs learn one for each of equally many inner steps, else those that the run file gives."""
    params = {name: network.params[name] for name in learner.spec.shapes()}
    if LOG_RATES not in learner.shapes:
        return params
    own, found = learner.params()[LOG_RATES].detach(), network.extras.get("inner.rates")
    if found is None or found.ndim != 2 or len(found) != len(own) or not bool((found == found[:, :1]).all()):
        return params | {LOG_RATES: own}
    return params | {LOG_RATES: found[:, 0].log().view(own.shape)}


def differences(run: RunFile, network: SharedNetwork) -> list[str]:
    """``key: wanted, found`` for what differs between the run file's architecture and a network's; of the kind alone,
    where that differs."""
    wanted, found = field_spec(run), _as_trained(network.spec)
    if wanted.KIND != found.KIND:
        return [f"field.kind is {wanted.KIND}, the network's {found.KIND}"]
    pairs = [(key, value, describe(found)[key]) for key, value in describe(wanted).items() if key != "kind"]
    return [
        f"{KEYS.get(k, f'field.{k}')} is {_said(a)}, the network's {_said(b)}" for k, a, b in pairs if not _same(a, b)
    ]


def _as_trained(spec: FieldSpec) -> FieldSpec:
    """While a basis field is trained, its latent has a number for each feature."""
    return replace(spec, latent=spec.features, mapped=False) if isinstance(spec, BasisSpec) else spec


def _same(wanted: Any, found: Any) -> bool:
    if not isinstance(wanted, tuple):
        return bool(wanted == found)
    # Evenly spaced ω may differ in the last digit from those that an earlier version computed.
    return len(wanted) == len(found) and all(map(math.isclose, wanted, found))


def _said(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _source(run: RunFile, store: ObjectStore) -> SharedNetwork:
    """The network that ``train.start_from`` names, whole and of the run's own architecture."""
    place, ref = _locate(run, store)
    network = load_network(place, ref)
    if found := differences(run, network):
        raise RunFileError(
            f"{KEY} names a network of another architecture:\n  " + "\n  ".join(found),
            where=ref.where(place),
            do=f"give these keys the network's values, or leave out {KEY} to train from the beginning",
        )
    if not all(bool(torch.isfinite(tensor).all()) for tensor in network.params.values()):
        raise RunFileError(f"{KEY} names a network with numbers that are not finite", do="name another network")
    return network


def _locate(run: RunFile, store: ObjectStore) -> tuple[ObjectStore, NetworkRef]:
    named = run.train.start_from
    assert named is not None
    if NAME.fullmatch(named):
        if named == run.name:
            raise RunFileError(f"{KEY} names the run itself", do="name another run, or leave it out: a run resumes")
        try:
            return store, published_network(store, named)
        except StageOrderError as error:
            what = f"{KEY} is {named}, but no run of that name has a trained network in this storage"
            raise StageOrderError(what, where=error.where, do="train that run first, or name another") from None
    place = ObjectStore(named)
    for folder in ("", "network/"):
        try:
            return place, _committed_in(place, folder)
        except ObjectMissingError:
            continue
    return place, _bare_in(place)


def _committed_in(place: ObjectStore, folder: str) -> NetworkRef:
    """What the commit record in a run's network folder names. ObjectMissingError where there is none."""
    body = read_record(place, f"{folder}{RECORD_FILE}", NETWORK)
    paths = files_below(body, (WEIGHTS_FILE, DESCRIPTION_FILE), place.uri(f"{folder}{RECORD_FILE}"))
    weights, description = (f"{folder}{path}" for path in paths)
    return NetworkRef(weights, description, str(body.get("digest")))


def _bare_in(place: ObjectStore) -> NetworkRef:
    """The two files of a network that lie in a folder by themselves."""
    try:
        digest = sha256_bytes(place.read(DESCRIPTION_FILE, limit=LARGEST_DESCRIPTION))
    except ObjectMissingError:
        raise StageOrderError(
            f"{KEY} names a place without a trained network",
            where=place.root,
            do=f"give the folder of a trained run (…/runs/NAME), or one that holds {WEIGHTS_FILE} and "
            f"{DESCRIPTION_FILE}",
        ) from None
    return NetworkRef(WEIGHTS_FILE, DESCRIPTION_FILE, digest)

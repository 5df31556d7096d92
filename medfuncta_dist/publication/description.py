"""What a program must know to read a publication: ``latents.json``, and the network without what ties it to the owner's
data set. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.publication.data_card import CardFacts
from medfuncta_dist.publication.shuffled_files import PublishedFile

DESCRIPTION, NETWORK_FOLDER = "latents.json", "network"
FORMAT_VERSION = 1
KIND = "published-latents"
CONTRACT = ("shape", "channels", "intensity", "aspect", "length", "spacing", "ct_window", "pet")
"""What of the data contract a reader needs to know what a value means. The rest says how the owner's archive is split
and grouped, in digests that a list of guesses can open."""


def public_network(network: SharedNetwork) -> SharedNetwork:
    """The same network without the dataset digest, and with the contract's keys of ``CONTRACT`` only."""
    contract = {name: network.contract[name] for name in CONTRACT if name in network.contract}
    return replace(network, contract=contract, dataset_digest="")


def describe(network: SharedNetwork, facts: CardFacts, written: Sequence[PublishedFile]) -> bytes:
    """The file's bytes. ``network``: as published."""
    body: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "kind": KIND,
        "storage_type": facts.storage_type,
        "numbers": facts.numbers,
        "units": None if facts.units is None else [float(unit) for unit in facts.units],
        "shape": list(facts.shape),
        "min_psnr": facts.min_psnr,
        "network": network.digest,
        "splits": {split.name: split.scans for split in facts.splits},
        "files": [{"path": file.path, "split": file.split, "rows": file.rows} for file in written],
    }
    return json.dumps(body, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"

"""The data card of a publication, ``README.md``: front matter as Hugging Face reads it, then what people read. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
import yaml

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fields.basis import BasisSpec
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.publication.checked_table import Training
from medfuncta_dist.publication.published_rows import Columns
from medfuncta_dist.publication.shuffled_files import PublishedFile
from medfuncta_dist.publication.statement import Statement
from medfuncta_dist.shards.data_contract import about_splits
from medfuncta_dist.shards.split_patients import SplitPatients
from medfuncta_dist.version import __version__

CARD = "README.md"
TEMPLATE = "card.md"
TAGS = ["medical", "medical-imaging", "neural-fields", "latents"]
SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}
LARGER = "n>10M"
WITHOUT_PATIENT = ("scan", "file")
"""How the group of a scan is found where nothing tells its patient."""
QUANTILES = (0, 0.05, 0.5, 0.95, 1)


@dataclass(frozen=True)
class SplitFacts:
    """Of a published split: its scans, and their PSNR in dB."""

    name: str
    scans: int
    mean: float
    std: float
    quantiles: tuple[float, ...]
    """Smallest, 5 %, median, 95 %, largest."""
    flagged: int

    @classmethod
    def of(cls, name: str, psnr: np.ndarray, below_min: np.ndarray) -> SplitFacts:
        """From the columns of all rows of a split."""
        values = psnr.astype(np.float64)
        quantiles = tuple(float(one) for one in np.quantile(values, QUANTILES))
        return cls(name, len(values), float(values.mean()), float(values.std()), quantiles, int(below_min.sum()))


@dataclass(frozen=True)
class CardFacts:
    """What the card says beside the owner's words."""

    splits: Sequence[SplitFacts]
    splits_by: str
    columns: Columns
    storage_type: str
    numbers: int
    units: np.ndarray | None
    shape: Sequence[int]
    min_psnr: float
    made: Mapping[str, str]
    trained_on: int | None
    left_out: int
    """Fitted scans of these splits that are not published."""


def data_card(statement: Statement, facts: CardFacts, written: Sequence[PublishedFile]) -> str:
    """The text of ``README.md``."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath(TEMPLATE).read_text("utf-8"))
    scans = sum(split.scans for split in facts.splits)
    return template.render(
        **vars(facts) | {"made": list(facts.made.items())},
        front_matter=_front_matter(statement, scans, [split.name for split in facts.splits]),
        statement=statement,
        scans=scans,
        first_file=written[0].path,
    )


def about_patients(contract: Mapping[str, Any], found: SplitPatients | None) -> str:
    """How the data set was split, in sentences, as far as anybody knows its patients (None: nobody does)."""
    splits = f"{about_splits(contract).capitalize()}."
    if found is None:
        return splits
    unknown = sum(found.by.get(way, 0) for way in WITHOUT_PATIENT)
    known = (
        f"In the data set that they come from, {found.patients:,} patients or examinations are known, and "
        f"{found.in_several_splits:,} of them are in several splits."
    )
    nobody = f"The patients of {unknown:,} scans are not known: several scans of one may be in different splits."
    if not found.patients:
        return nobody
    return " ".join([splits, known, *([nobody] if unknown else [])])


def how_made(run: RunFile, network: SharedNetwork, training: Training) -> dict[str, str]:
    """How network and latents were made, for people."""
    spec, fit = network.spec, run.fit
    sizes = f"{spec.layers} layers, hidden width {spec.hidden}, latent size {spec.latent}"
    basis = isinstance(spec, BasisSpec)
    field = f"basis field of {spec.features} functions" if isinstance(spec, BasisSpec) else "latent-modulated SIREN"
    steps = "" if training.steps is None else f"{training.steps:,} outer steps of {run.train.batch} scans, "
    start = ", beginning with a network that was trained on other scans or longer ago" if training.started_from else ""
    how = "in closed form" if basis else f"by {fit.method}, {fit.steps} steps"
    return {
        "field": f"{field}, {sizes}, ω from {min(spec.omegas):g} to {max(spec.omegas):g}",
        "shape of a scan": " × ".join(str(n) for n in network.contract["shape"]) + f", {spec.channels} channel(s)",
        "training": f"{steps}seed {run.train.seed}{start}",
        "fit": f"each scan by itself, with the network as it is, {how}",
        "network": f"medfuncta-dist {network.code_version}",
        "published by": f"medfuncta-dist {__version__}",
    }


def _front_matter(statement: Statement, scans: int, splits: Sequence[str]) -> str:
    link = {"license_name": "other", "license_link": statement.licence_link} if statement.licence_link else {}
    matter: dict[str, Any] = {
        "license": statement.licence,
        **link,
        "pretty_name": statement.title,
        "tags": TAGS,
        "size_categories": [next((name for most, name in SIZES.items() if scans < most), LARGER)],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
    }
    return yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)

"""Publishing a run: checks first, then rows as a stream and all else, into a folder that does not count yet, which
at last gets its place. An interrupted publication leaves nothing at the target that looks like one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.publication.checked_table import CheckedTable
from medfuncta_dist.publication.data_card import CARD, CardFacts, SplitFacts, about_patients, data_card, how_made
from medfuncta_dist.publication.description import DESCRIPTION, NETWORK_FOLDER, describe, public_network
from medfuncta_dist.publication.privacy_gate import forgotten_scans, owners_folder, require_acknowledged
from medfuncta_dist.publication.published_rows import Columns
from medfuncta_dist.publication.row_stream import RowStream
from medfuncta_dist.publication.shuffled_files import FILE_BYTES, PublishedFile
from medfuncta_dist.publication.statement import Statement
from medfuncta_dist.publication.target import Target, write_checksums
from medfuncta_dist.scans.private.published_ids import new_id_list
from medfuncta_dist.shards.split_patients import split_patients
from medfuncta_dist.telemetry.progress_report import OnProgress, ignore_progress

DECODER, DECODER_SOURCE = "decode.py", "standalone_decoder.py"
NAME_DIGITS = 16


@dataclass(frozen=True)
class Wanted:
    """What the owner asks for."""

    statement: Statement
    columns: Columns = field(default_factory=Columns)
    splits: tuple[str, ...] | None = None
    """None: all that are fitted."""
    leave_out_burned_in: bool = False
    """Publish the others where some scans were packed although their file may name or show the patient."""
    file_bytes: int = FILE_BYTES


@dataclass(frozen=True)
class Publication:
    """What was published."""

    target: str
    files: Sequence[PublishedFile]
    splits: Sequence[SplitFacts]
    left_out: int
    ids: Path
    """The list that leads from published ids to keys, in the owner's private folder."""


def publish_run(
    run: RunFile, target: str, wanted: Wanted, acknowledged: str | None, on_progress: OnProgress = ignore_progress
) -> Publication:
    """Publish a run's latents as a new folder or prefix, ``target``.

    Raises:
        RunFileError: the owner has not acknowledged that latents decode to images; there is something at the target, or
            it is in the storage; or a scan may not be published (see ``privacy_gate.py``).
        StageOrderError: the run is not trained or fitted to its end.
        IntegrityError: a part, a record or the network is not what was committed, or a scan that must not be published
            is in the table.
    """
    require_acknowledged(acknowledged)
    private = owners_folder(run)
    place = Target.of(target, run, private)
    table = CheckedTable.open(run, wanted.splits)
    table.never.require_left_out(wanted.leave_out_burned_in)
    with place.staging() as staged, new_id_list(private, run.dataset, place.root) as ids:
        rows = RowStream(table, wanted.columns, ids, on_progress)
        written = rows.save(staged, wanted.file_bytes)
        facts = _facts(table, wanted.columns, rows)
        _write_rest(staged, table, wanted.statement, facts, written)
        name = hashlib.sha256(write_checksums(staged)).hexdigest()[:NAME_DIGITS]
        rows.require_not_forgotten(forgotten_scans(table.store, run))
        kept = ids.keep(name)  # before the publication appears: none is ever without its owner's list
        place.place(staged)
    return Publication(place.root, written, facts.splits, facts.left_out, kept)


def _facts(table: CheckedTable, columns: Columns, rows: RowStream) -> CardFacts:
    run, network, snapshot = table.run, table.network, table.location.snapshot
    return CardFacts(
        splits=rows.facts(),
        splits_by=about_patients(snapshot.contract, split_patients(table.store, snapshot)),
        columns=columns,
        storage_type=rows.storage.storage_type,
        numbers=rows.storage.numbers,
        units=rows.units,
        shape=network.contract["shape"],
        min_psnr=run.fit.min_psnr,
        made=how_made(run, network, table.training()),
        trained_on=table.trained_on(),
        left_out=rows.left_out,
    )


def _write_rest(
    staged: Path, table: CheckedTable, statement: Statement, facts: CardFacts, written: Sequence[PublishedFile]
) -> None:
    """Everything but rows and checksums."""
    network = public_network(table.network)
    (staged / NETWORK_FOLDER).mkdir()
    for name, data in network.to_files().items():
        (staged / NETWORK_FOLDER / name).write_bytes(data)
    (staged / DESCRIPTION).write_bytes(describe(network, facts, written))
    (staged / DECODER).write_bytes(files(__package__).joinpath(DECODER_SOURCE).read_bytes())
    (staged / CARD).write_text(data_card(statement, facts, written), "utf-8")

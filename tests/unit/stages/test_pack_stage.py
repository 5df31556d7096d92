"""What the pack stage says about splits; the stage itself runs in the integration tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from medfuncta_dist.packing.pack_driver import PackSummary
from medfuncta_dist.packing.pack_ledger import total
from medfuncta_dist.packing.sources.copy_conflicts import CopyConflicts
from medfuncta_dist.shards.data_contract import SplitsBy
from medfuncta_dist.shards.split_look_alikes import SplitLookAlikes
from medfuncta_dist.shards.split_patients import SplitPatients
from medfuncta_dist.stages.pack_stage import figures_of


def said(by: SplitsBy, patients: SplitPatients | None = None, **more: Any) -> str:
    figures = figures_of(PackSummary("d" * 64, total([]), [], {"train": 7}, 0, by, patients, **more))
    assert figures["splits_by"] == by.value
    return "\n".join(figures["said"])


def test_by_patient_the_patients_are_counted() -> None:
    text = said(SplitsBy.PATIENT, SplitPatients(20, 0, {"patient": 60}))
    assert "splits by patient: 20 patients, 0 in several splits" in text
    assert "name no patient" not in text


def test_scans_of_nobody_are_told() -> None:
    text = said(SplitsBy.PATIENT, SplitPatients(2, 0, {"patient": 6, "scan": 3, "study": 4, "file": 5}))
    assert "3 scans name no patient: each is split by itself; data.group tells" in text
    assert "4 scans name no patient: they are split by examination" in text
    assert "5 scans are in the splits that their file gives" in text
    assert "0 patients" not in said(SplitsBy.PATIENT, SplitPatients(0, 0, {"scan": 3}))


def test_by_source_it_says_what_that_means_and_the_way_out() -> None:
    text = said(SplitsBy.SOURCE)
    assert "splits by source: several scans of a patient may be in different splits" in text
    assert "set data.dataset to a new name" in text


def test_given_splits_that_part_a_patient_are_warned_of() -> None:
    text = said(SplitsBy.GIVEN, SplitPatients(9, 2, {"patient": 30}))
    assert "splits as given: 9 patients, 2 in several splits" in text
    assert "warning: results on these splits are better than on new patients, because 2 patients are in several" in text
    assert "warning" not in said(SplitsBy.GIVEN, SplitPatients(9, 0, {"patient": 30}))


def test_slabs_are_within_a_volume() -> None:
    assert "splits within a volume, by slabs of slices" in said(SplitsBy.SLABS)


def test_an_empty_split_and_unused_rows_are_told() -> None:
    text = said(SplitsBy.RULE, SplitPatients(3, 0, {"table": 9}), empty_splits=["test", "val"], unused_rows=4)
    assert "no scan is in test, val: each patient falls into a split by chance" in text
    assert "4 rows of the table name no source of the archive" in text


def test_what_was_not_read_is_told() -> None:
    assert "not read: 3 x no reader takes .pdf" in said(SplitsBy.PATIENT, aside={"no reader takes .pdf": 3})


def test_the_counts_are_figures_too() -> None:
    summary = PackSummary(
        "d" * 64, total([]), [], {"train": 7}, 0, SplitsBy.GIVEN, SplitPatients(9, 2, {"patient": 30}), [], 4
    )
    known = {
        "splits_by": "given",
        "patients": 9,
        "patients_in_several_splits": 2,
        "scans_grouped_by": {"patient": 30},
        "table_rows_without_source": 4,
    }
    assert figures_of(summary).items() >= known.items()
    unknown = figures_of(PackSummary("d" * 64, total([]), [], {}, 0, SplitsBy.SOURCE, None))
    assert unknown["patients"] is unknown["patients_in_several_splits"] is None


def test_what_a_table_and_look_alikes_tell() -> None:
    summary = PackSummary("d" * 64, total([]), [], {}, 0, SplitsBy.GIVEN, None)
    assert not [line for line in figures_of(summary)["said"] if "look alike" in line or "table" in line]
    summary = replace(
        summary,
        without_row=3,
        copy_conflicts=CopyConflicts(2, 1, 0),
        look_alikes=SplitLookAlikes(90, 10, 4, 5, 0, 6),
    )
    figures = figures_of(summary)
    assert figures["look_alikes"]["across_splits"] == 4
    assert figures["copies_told_otherwise"] == {"splits": 2, "patients": 1, "labels": 0}
    text = "\n".join(figures["said"])
    assert "3 sources have no row in the table" in text
    assert "2 another split, 1 another patient, 0 other labels" in text
    assert "at least 4 pairs of scans look alike in different splits, and 5 of different patients" in text
    assert "10 scans were not compared" in text
    assert "6 scans look like so many others" in text

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, ClassVar, get_args

import pytest

from medfuncta_dist.config.keys import (
    CONTRACT,
    FIT_DIGEST,
    FREE,
    PUBLIC,
    SETTLED,
    Added,
    Before,
    Key,
    Meaning,
    OpenCountsAs,
    WithinRun,
    added,
    before,
    only_for,
    open_values,
)
from medfuncta_dist.config.load import dump, parse
from medfuncta_dist.config.run_file import RunFile, older_values
from medfuncta_dist.config.section import PositiveInt, Section
from medfuncta_dist.config.sections.fit_section import Fit
from medfuncta_dist.fitting.fit_driver import fit_digest
from medfuncta_dist.run.frozen_run_file import fixed_part

RUN = parse("{name: keys, storage: 's3://bucket/keys', data: {source: 's3://archive/*.csv', shape: [8, 8]}}")
OUTSIDE = {"name", "storage", "preset", "format_version"}


class Said(Section):
    MEANING: ClassVar = Meaning(public=True)

    silent: int = 1
    free: Annotated[PositiveInt | None, FREE] = None
    both: Annotated[int, SETTLED, FIT_DIGEST] = 2
    newer: Annotated[str, Before("then")] = "now"
    open: Annotated[PositiveInt | None, SETTLED, OpenCountsAs(5)] = None


class Unsaid(Section):
    key: int = 1


class LaterFit(Fit):
    later: Annotated[int | None, Added(None)] = None


class LaterRunFile(RunFile):
    """The run file of a version with one key more."""

    fit: LaterFit = LaterFit()


def sections_within(section: type[Section]) -> Iterator[type[Section]]:
    """The sections in a section, at any depth."""
    for name in re.findall(r"#/\$defs/(\w+)", str(section.model_json_schema().get("properties"))):
        yield next(kind for kind in subclasses(Section) if kind.__name__ == name)


def subclasses(kind: type) -> Iterator[type]:
    for sub in kind.__subclasses__():
        yield sub
        yield from subclasses(sub)


def test_the_keys_of_one_kind_of_field_are_of_a_kind_that_there_is():
    kinds = get_args(RunFile.sections()["field"].model_fields["kind"].annotation)
    marks = [mark for kind in RunFile.sections().values() for mark in only_for(kind.model_fields).values()]
    assert {mark.kind for mark in marks} == set(kinds)


def test_a_key_of_which_nothing_is_said_is_fixed_decides_results_and_stays_here():
    meaning = Unsaid.meanings()["key"]
    assert meaning.fixed
    assert meaning.decides_results
    assert not meaning.settled
    assert not meaning.public


def test_a_key_means_what_its_section_means_but_for_its_own_annotations():
    meanings = Said.meanings()
    assert meanings["silent"] == meanings["newer"] == Meaning(public=True)
    assert meanings["free"] == Meaning(WithinRun.FREE, decides_results=False, public=True)
    assert meanings["both"] == Meaning(WithinRun.SETTLED, in_fit_digest=True, public=True)


def test_the_keys_of_a_meaning_come_with_their_values():
    assert Said.keys_where(lambda key: key.fixed) == ("silent", "both", "newer", "open")
    assert Said(both=7).part(lambda key: key.settled) == {"both": 7, "open": None}
    assert Said().part(lambda key: not key.public) == {}


def test_what_a_key_was_before_it_existed_is_written_at_the_key():
    assert before(Said.model_fields) == {"newer": "then"}
    assert older_values() == {
        "data": {
            "ct_window": None,
            "length": None,
            "leads": None,
            "csv": None,
            "group": None,
            "series": None,
            "patches": None,
            "spacing": None,
            "table": None,
            "identifying_labels": "refuse",
            "look_alikes": "report",
            "burned_in": "refuse",
            "masks": "skip",
            "volume": "each",
            "volume_names": None,
            "pet": None,
            "non_finite": "refuse",
            "removed": "keep",
        },
        "field": {"kind": "siren", "features": None},
        "meta": {"ridge": 1e-4, "precision": None, "graphs": "auto", "captured": None, "halvings": None},
        "train": {
            "optimizer": "adamw",
            "schedule_steps": None,
            "start_from": None,
            "patches_per_scan": 64,
            "augment": None,
        },
        "fit": {
            "ridge": 1e-6,
            "keep": None,
            "storage_loss": None,
            "curved_loss": 0.2,
            "block_scans": None,
            "captured": None,
            "chosen_scans_per_task": None,
            "gpus_per_task": None,
        },
        "prior": {
            "steps": 2000,
            "batch": 128,
            "rate": 0.001,
            "numbers": 256,
            "width": 256,
            "blocks": 2,
            "seed": 0,
            "most_copied": 0.05,
        },
        "evaluate": {"umap": False},
        "kubernetes": {
            "ca_config_map": None,
            "proxy": None,
            "max_hours": None,
            "max_cost": None,
            "image_pull_secrets": [],
            "priority_class": None,
            "head_priority_class": None,
            "gpu_resource": "nvidia.com/gpu",
            "zones": "any",
            "zone_label": "topology.kubernetes.io/zone",
            "ephemeral_storage": False,
            "logs_gigabytes": 5.0,
            "spill_path": "/spill",
            "spill_gigabytes": 5.0,
            "scratch_gigabytes": 4.0,
        },
        "telemetry": {"networks": False},
    }


def test_a_key_that_came_later_leaves_digests_alone_at_its_earlier_value():
    assert (
        before(LaterFit.model_fields)
        == added(LaterFit.model_fields)
        == {
            "later": None,
            "ridge": 1e-6,
            "keep": None,
            "storage_loss": None,
            "curved_loss": 0.2,
            "block_scans": None,
            "captured": None,
            "chosen_scans_per_task": None,
            "gpus_per_task": None,
        }
    )
    old = LaterRunFile.model_validate(RUN.model_dump())
    assert digests(old) == digests(RUN)
    new = LaterRunFile.model_validate(RUN.model_dump() | {"fit": {"later": 0}})
    assert not set(digests(new)) & set(digests(RUN))


def test_no_digest_has_a_key_that_came_later_and_decides_nothing():
    shared = parse(dump(RUN), ["fit.gpus_per_task=0.25"])
    assert digests(shared) == digests(RUN)
    assert fixed_part(shared) == fixed_part(RUN)
    chosen = parse(dump(RUN), ["fit.chosen_scans_per_task=7"])
    assert digests(chosen) == digests(RUN)
    assert fixed_part(chosen) != fixed_part(RUN), "nobody changes it within a run"


def test_an_open_key_counts_in_digests_as_it_says():
    assert open_values(Said.model_fields) == {"open": 5}
    assert Said().digested(lambda key: True)["open"] == Said(open=5).digested(lambda key: True)["open"] == 5
    assert Said(open=7).digested(lambda key: True)["open"] == 7
    assert Said().part(lambda key: key.settled)["open"] is None


def digests(run: RunFile) -> list[str]:
    return [run.digest(), run.digest("fit"), run.results_digest, fit_digest(run)]


def test_the_comparison_of_run_files_has_the_keys_that_came_later():
    assert fixed_part(LaterRunFile.model_validate(RUN.model_dump()))["fit"]["later"] is None


def test_every_section_says_what_its_keys_mean():
    sections = RunFile.sections()
    assert list(sections) == [name for name in RunFile.model_fields if name not in OUTSIDE]
    assert [name for name, kind in sections.items() if "MEANING" not in vars(kind)] == []


@pytest.mark.parametrize("name", sorted(OUTSIDE))
def test_every_key_outside_the_sections_says_what_it_means(name):
    assert any(isinstance(mark, Key) for mark in RunFile.model_fields[name].metadata)


def test_a_section_within_a_section_means_what_its_key_means():
    nested = [kind for section in RunFile.sections().values() for kind in sections_within(section)]
    assert {"Intensity", "Slabs", "HeadPod", "Prices"} <= {kind.__name__ for kind in nested}
    for kind in nested:  # an annotation there would never be asked for
        marks = [mark for key in kind.model_fields.values() for mark in key.metadata]
        assert not [mark for mark in marks if isinstance(mark, Key | Before)]
        assert "MEANING" not in vars(kind)


def test_what_the_run_settles_may_be_left_open():
    for kind in RunFile.sections().values():
        for name in kind.keys_where(lambda key: key.settled):
            assert kind.model_fields[name].default is None


def test_no_two_keys_of_the_fit_digest_have_one_name():
    names = Counter(name for part in RUN.parts(lambda key: key.in_fit_digest).values() for name in part)
    assert names["seed"] == names["method"] == 1
    assert max(names.values()) == 1


def test_a_free_key_decides_no_latent_and_no_packed_scan():
    for kind in RunFile.sections().values():
        assert not kind.keys_where(lambda key: not key.fixed and (key.in_fit_digest or key.in_contract))


def test_which_keys_may_change_within_a_run_is_changed_on_purpose_only():
    free = {name: set(kind.keys_where(lambda key: not key.fixed)) for name, kind in RunFile.sections().items()}
    whole = {name for name, keys in free.items() if keys == set(RunFile.sections()[name].model_fields)}
    assert whole == {"evaluate", "prior", "cluster", "kubernetes", "telemetry"}
    assert {name: keys for name, keys in free.items() if keys and name not in whole} == {
        "data": {
            "private",
            "burned_in",
            "masks",
            "non_finite",
            "identifying_labels",
            "look_alikes",
            "max_quarantined",
            "sources_per_task",
            "snapshot",
            "removed",
        },
        "train": {
            "zero_stage",
            "checkpoint_steps",
            "checkpoint_minutes",
            "node_hours_between_failures",
            "keep_checkpoints",
            "keep_checkpoint_hours",
            "max_failures",
            "max_preemptions",
            "hang_timeout",
        },
        "fit": {"splits", "gpus_per_task"},
    }


def test_which_keys_a_run_settles_is_changed_on_purpose_only():
    settled = dict.fromkeys(
        ("chunk_points", "chunk_scans", "products", "precision", "compiled", "captured", "halvings")
    )
    fitting = dict.fromkeys(("block_scans", "captured", "scans_per_task", "chosen_scans_per_task"))
    assert RUN.parts(lambda key: key.settled) == {"meta": settled, "fit": fitting}


def test_parts_hold_keys_outside_the_sections_under_their_own_names():
    assert RUN.parts(lambda key: key.within_run is WithinRun.IDENTITY) == {
        "name": "keys",
        "storage": "s3://bucket/keys",
    }


def test_annotations_change_neither_what_is_valid_nor_what_is_dumped():
    class Plain(Section):
        key: PositiveInt = 3

    class Marked(Section):
        key: Annotated[PositiveInt, CONTRACT, PUBLIC, Before(1)] = 3

    plain, marked = (kind.model_json_schema()["properties"] for kind in (Plain, Marked))
    assert plain == marked
    assert Marked().model_dump() == {"key": 3}
    with pytest.raises(ValueError, match="greater than 0"):
        Marked(key=0)

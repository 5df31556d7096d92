from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.errors import FormatVersionError, IntegrityError, LeaseLostError, RunFileError, StorageError
from medfuncta_dist.storage.leases.lease_claim import take
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.progress_record import (
    RECENT_S,
    SAMPLES,
    ProgressRecorder,
    progress_path,
    rate,
    read_progress,
    thin_samples,
)
from medfuncta_dist.telemetry.progress_report import BytesDone, ProgressReport


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def recorder(store: ObjectStore, clock: Clock, **given: object) -> ProgressRecorder:
    return ProgressRecorder(store, "x", "fit", clock=clock, **given)  # type: ignore[arg-type]


def report(done: int, total: int, *, workers_started: bool = False, **notes: float) -> ProgressReport:
    return ProgressReport("fit", done, total, dict(notes), workers_started)


def test_bytes_are_recorded_beside_units_and_measured_anew_by_the_next_driver(tmp_path: Path) -> None:
    store, clock = ObjectStore(str(tmp_path)), Clock()

    def stop_halfway() -> None:
        with recorder(store, clock) as writer:
            for done, size in ((0, 0), (1, 600), (2, 1000)):
                clock.now += 10
                writer.record(ProgressReport("fit", done, 9, size=BytesDone(size, 4000)))
            raise StorageError("no room")

    with pytest.raises(StorageError):
        stop_halfway()
    found = read_progress(store, "x", "fit")
    assert (found.bytes_done, found.bytes_total, rate(found.byte_samples)) == (1000, 4000, 50.0)
    with recorder(store, clock) as writer:
        assert (writer.progress.size, writer.progress.byte_samples) == (BytesDone(1000, 4000), ())
        clock.now += 10
        writer.record(ProgressReport("fit", 2, 9, size=BytesDone(1000, 4000)))
        assert rate(writer.progress.byte_samples) is None
    found = read_progress(store, "x", "fit")
    assert (found.bytes_done, found.done, found.finished) == (4000, 9, clock.now)


def test_what_is_recorded_is_read_back_and_written_only_now_and_then(tmp_path: Path) -> None:
    store, clock = ObjectStore(str(tmp_path)), Clock()
    assert read_progress(store, "x", "fit") is None
    with recorder(store, clock, gpus=8.0) as writer:
        clock.now += 5
        writer.record(report(10, 100, quarantined=1))
        assert read_progress(store, "x", "fit").done == 0
        clock.now += 5
        writer.record(report(20, 100, psnr=31.5))
        found = read_progress(store, "x", "fit")
        assert found == writer.progress
        assert (found.done, found.total, found.notes) == (20, 100, {"quarantined": 1, "psnr": 31.5})
        assert (found.held_s, found.gpu_s) == (10.0, 80.0)
        assert rate(found.samples) == 2.0
        clock.now += 1
    assert read_progress(store, "x", "fit").finished == 111.0


def test_the_next_driver_goes_on_counting_and_time_between_them_is_nobodys(tmp_path: Path) -> None:
    store, clock = ObjectStore(str(tmp_path)), Clock()
    writer = recorder(store, clock)
    clock.now += 20
    writer.record(report(10, 100))
    with pytest.raises(StorageError), writer:
        raise StorageError("no room", do="make some")
    assert read_progress(store, "x", "fit").failure == {"kind": "StorageError", "what": "no room", "do": "make some"}
    clock.now += 1000
    with recorder(store, clock) as writer:
        assert writer.progress.failure is None
        clock.now += 7
        writer.record(report(20, 100, workers_started=True))
        writer.record(report(40, 100))
        writer.record(report(30, 100, workers_started=True))
    found = read_progress(store, "x", "fit")
    assert (found.starts, found.held_s, found.began, found.started) == (3, 27.0, 100.0, 1120.0)
    assert recorder(store, clock).progress.starts == 1  # a finished stage begins anew


def test_a_finished_stage_stays_finished_until_the_next_driver_reports_or_fails(tmp_path: Path) -> None:
    store, clock = ObjectStore(str(tmp_path)), Clock()
    with recorder(store, clock) as writer:
        writer.record(report(100, 100))
    finished = read_progress(store, "x", "fit")
    seen = []

    def refused(*reports: int) -> None:
        with recorder(store, clock) as writer:
            for done in reports:
                writer.record(report(done, 120))
            seen.append(read_progress(store, "x", "fit"))
            raise RunFileError("another salt")

    with pytest.raises(RunFileError):
        refused()
    assert seen.pop() == read_progress(store, "x", "fit") == finished
    with pytest.raises(RunFileError):
        refused(100)
    assert seen.pop().finished is None
    assert read_progress(store, "x", "fit").failure["kind"] == "RunFileError"


def test_an_error_that_is_not_ours_leaves_its_class_and_no_text_of_it(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    with pytest.raises(ValueError, match="Jane"), recorder(store, Clock()):
        raise ValueError("/archive/Doe^Jane.dcm")
    assert b"Jane" not in store.read(progress_path("x", "fit"))
    assert "ValueError" in read_progress(store, "x", "fit").failure["what"]


def test_workers_that_go_back_to_a_checkpoint_are_measured_anew(tmp_path: Path) -> None:
    clock = Clock()
    writer = recorder(ObjectStore(str(tmp_path)), clock)
    for done in (100, 200, 150, 160):
        clock.now += 10
        writer.record(report(done, 1000))
    assert rate(writer.progress.samples) == 1.0


def test_damaged_and_unknown_records_are_refused_by_name_and_replaced_by_the_next_driver(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    path = progress_path("x", "fit")
    for data, kind in ((b"{", IntegrityError), (b'{"format_version": 2}', FormatVersionError), (b"[]", IntegrityError)):
        store.write(path, data)
        with pytest.raises(kind):
            read_progress(store, "x", "fit")
    store.write(path, json.dumps({"format_version": 1, "run": "x"}).encode())
    with pytest.raises(IntegrityError, match="has no valid"):
        read_progress(store, "x", "fit")
    with recorder(store, Clock()):
        assert read_progress(store, "x", "fit").starts == 1


@pytest.mark.parametrize(
    "field",
    [{"samples": 5}, {"samples": [1]}, {"samples": [["a", 1]]}, {"held_s": "x"}, {"notes": 3}, {"starts": None}],
)
def test_a_record_whose_values_are_of_another_kind_never_ends_a_stage(tmp_path: Path, field: dict[str, object]) -> None:
    store = ObjectStore(str(tmp_path))
    path = progress_path("x", "fit")
    with pytest.raises(KeyboardInterrupt), recorder(store, Clock()):
        raise KeyboardInterrupt
    store.write(path, json.dumps({**json.loads(store.read(path)), **field}).encode())
    with pytest.raises(IntegrityError, match=next(iter(field))):
        read_progress(store, "x", "fit")
    with recorder(store, Clock()) as writer:
        writer.record(report(1, 2))
    assert read_progress(store, "x", "fit").done == 2


def test_a_record_that_is_nested_too_deep_is_damaged(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    store.write(progress_path("x", "fit"), b"[" * 60_000)
    with pytest.raises(IntegrityError):
        read_progress(store, "x", "fit")


def test_a_driver_that_comes_back_after_a_takeover_writes_no_more(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    late = take(store, "lease.json", 60, print)

    def superseded() -> None:
        with recorder(store, Clock(), fence=late.fence) as writer:
            late.give_back()
            with recorder(store, Clock(), fence=take(store, "lease.json", 60, print).fence) as successor:
                successor.record(report(5, 5))
            writer.record(report(1, 5))
            raise late.lost_error("it changed hands")

    with pytest.raises(LeaseLostError):
        superseded()
    found = read_progress(store, "x", "fit")
    assert (found.done, found.failure, found.finished) == (5, None, 100.0)


def test_storage_that_fails_does_not_end_the_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "root").write_text("a file where a folder should be")
    with recorder(ObjectStore(str(tmp_path / "root"), deadline_s=0.1), Clock()) as writer:
        writer.record(report(1, 2))
    assert "progress was not written" in capsys.readouterr().err


def test_the_present_rate_is_that_of_the_last_minutes() -> None:
    slow_at_first = ((0.0, 0), (RECENT_S * 2, 10), (RECENT_S * 2 + 100, 1010))
    assert rate(slow_at_first) == 10.0
    assert rate(((0.0, 0),)) is None
    assert rate(((0.0, 5), (10.0, 5))) is None


@given(st.integers(2, 200))
def test_thinned_samples_keep_both_ends(count: int) -> None:
    samples: tuple[tuple[float, int], ...] = ()
    for i in range(count):
        samples = thin_samples((*samples, (float(i), i)))
    assert len(samples) <= SAMPLES
    assert samples[0] == (0.0, 0)
    assert samples[-1] == (count - 1.0, count - 1)
    assert list(samples) == sorted(set(samples))


def test_time_and_money_are_counted_over_all_attempts_and_after_a_stage_has_finished(tmp_path: Path) -> None:
    store, clock = ObjectStore(str(tmp_path)), Clock()
    for price in (None, 36.0, 72.0):  # per hour; at first there is none, and what was used then is paid at the next
        with recorder(store, clock, per_hour=price) as writer:
            clock.now += 100
            writer.record(report(10, 10))
    found = read_progress(store, "x", "fit")
    assert (found.held_s, found.used_s, found.priced_s) == (100.0, 300.0, 300.0)
    assert found.cost == pytest.approx(2.0 + 2.0)


def test_a_record_of_an_earlier_version_is_read_and_its_time_counts(tmp_path: Path) -> None:
    store, clock = ObjectStore(str(tmp_path)), Clock()
    writer = recorder(store, clock)
    clock.now += 50
    with pytest.raises(StorageError), writer:
        raise StorageError("no room", do="make some")
    whole = json.loads(store.read(progress_path("x", "fit")))
    for key in ("used_s", "cost", "priced_s"):
        del whole[key]
    store.write(progress_path("x", "fit"), json.dumps(whole).encode())
    with recorder(store, clock, per_hour=72.0):
        clock.now += 50
    found = read_progress(store, "x", "fit")
    assert (found.used_s, found.cost) == (100.0, 2.0)


def test_time_since_the_last_report_is_counted_when_it_is_asked_for(tmp_path: Path) -> None:
    clock = Clock()
    writer = recorder(ObjectStore(str(tmp_path)), clock, per_hour=3600.0)
    clock.now += 7
    assert (writer.progress_now().used_s, writer.progress_now().cost) == (7.0, 7.0)
    assert writer.progress.used_s == 0.0

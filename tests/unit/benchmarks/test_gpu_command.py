"""`make gpu` without a GPU: its dry form where only the compute core is installed, and what it survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from benchmarks.gpu import ways
from benchmarks.gpu.__main__ import Call, Runner, main
from benchmarks.gpu.page import markdown, record_of
from benchmarks.gpu.plan import LEAST_SECONDS, SECTIONS, Budget, Section, chosen
from benchmarks.gpu.result_lines import excerpt, read
from benchmarks.gpu.targets import NOT_MEASURED, rows
from medfuncta_dist.run import settle_chunks
from tests.bare_install.bare_python import ROOT, on_bare_install

NAMED = ("needs CUDA", "deepspeed is not installed; carry its wheel", "triton is not installed")
"""Reasons to skip that a machine without a GPU may give."""


def record_in(folder: Path) -> dict[str, Any]:
    """What a run in this folder has left."""
    found: dict[str, Any] = json.loads((folder / "gpu-dry.json").read_text())
    return found


def dry(folder: Path, *words: str) -> dict[str, Any]:
    """The record of a dry run with the compute core alone; nothing has failed, and all that was skipped says why."""
    on_bare_install("-m", "benchmarks.gpu", "--dry", "--out", str(folder), *words)
    found = record_in(folder)
    for section in found["sections"].values():
        assert section["status"] == "done", section
        assert section["parts"]
        for values in section["parts"].values():
            assert "failed" not in values
            assert values.get("skipped", NAMED[0]) in NAMED
            assert all(number == number for number in values.values() if isinstance(number, float))
    return found


def medmnist(folder: Path) -> str:
    """A file in MedMNIST's layout."""
    drawn, counts = np.random.default_rng(0), {"train": 12, "val": 4, "test": 4}
    images = {f"{split}_images": drawn.integers(0, 255, (n, 16, 16), np.uint8) for split, n in counts.items()}
    np.savez(folder / "scans.npz", **images)
    return str(folder / "scans.npz")


@pytest.mark.slow
def test_every_section_runs_where_only_the_compute_core_is_installed(tmp_path: Path) -> None:
    found = dry(tmp_path / "out", "--data", medmnist(tmp_path))
    assert list(found["sections"]) == [section.name for section in SECTIONS]
    parts = {name: section["parts"] for name, section in found["sections"].items()}
    assert parts["gradient"]["trained, fp64"]["within"]
    assert parts["quality"]["Gauss-Newton, fp32, eager"]["nan_neighbour_equal"]
    assert parts["ranks"]["two ranks, gloo"]["good"]
    assert parts["ranks"]["DeepSpeed, ZeRO 0 to 3"] == {"skipped": NAMED[1]}
    assert parts["graphs"]["meta step, tf32x3, captured"] == {"skipped": NAMED[0]}
    assert parts["training"]["kept in half precision"]["within_16_mb"]
    assert {row["met"] for row in found["targets"]} == {NOT_MEASURED}
    page = (tmp_path / "out" / "gpu-dry.md").read_text()
    assert all(f"## {section.name}: {section.title}\n\nDone" in page for section in SECTIONS)


def test_chosen_sections_run_there_and_the_results_of_others_stay(tmp_path: Path) -> None:
    first = dry(tmp_path, "--only", "ceilings,meta")
    assert set(first["sections"]) == {"ceilings", "meta"}
    meta = first["sections"]["meta"]["parts"]
    assert meta["4 scans, fp32, eager"]["over_baseline"] == pytest.approx(
        meta["4 scans, fp32, eager"]["ms"] / meta["4 scans, fp32, eager"]["baseline_ms"], rel=1e-2
    )
    assert meta["4 scans, tf32, compiled + captured"] == {"skipped": NAMED[0]}
    second = dry(tmp_path, "--only", "ceilings")
    assert second["sections"]["meta"] == first["sections"]["meta"]
    assert second["sections"]["ceilings"]["run"] != first["sections"]["ceilings"]["run"]
    assert second["command"] == "python -m benchmarks.gpu --dry --only ceilings"


def runner(folder: Path, budget: Budget, *names_and_seconds: tuple[str, float]) -> Runner:
    """Of sections that behave badly."""
    module = "tests.unit.benchmarks.gpu_sections"
    sections = [Section(name, module, f"it {name}", seconds) for name, seconds in names_and_seconds]
    return Runner(Call(sections, budget, folder, None, True, "command"), {"packages": {}})


def test_a_section_that_fails_hangs_or_dies_is_recorded_and_the_next_ones_run(tmp_path: Path) -> None:
    names = (("hangs", 12.0), ("raises", 60.0), ("dies", 60.0), ("skips", 60.0), ("works", 60.0))
    runner(tmp_path, Budget(252), *names).run()
    found = record_in(tmp_path)["sections"]
    raised = found["raises"]
    assert raised["status"] == "failed"
    assert "RuntimeError: nothing works" in raised["why"]
    assert "ValueError: no such kernel" in raised["parts"]["fails"]["failed"]
    assert raised["parts"]["after"] == {"number": 2.0}
    hung = found["hangs"]
    assert (hung["status"], hung["why"]) == ("stopped", "took more than its 12 s")
    assert hung["parts"]["before"] == {"number": 1.0}
    assert ended(int(hung["parts"]["child"]["pid"]))
    assert found["dies"]["status"] == "crashed"
    assert found["dies"]["why"].startswith("SIGABRT: ")
    assert "the device is lost" in found["dies"]["why"]
    assert (found["skips"]["status"], found["skips"]["why"]) == ("skipped", "needs a quantum computer")
    assert found["works"]["parts"]["number"] == {"number": 3.0}
    page = (tmp_path / "gpu-dry.md").read_text()
    assert "not measured" in page


def ended(pid: int) -> bool:
    """Whether a process is gone, or soon is."""
    for _ in range(50):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


def test_what_has_no_time_left_is_not_started_and_replaces_nothing(tmp_path: Path) -> None:
    runner(tmp_path, Budget(60), ("works", 60.0)).run()
    runner(tmp_path, Budget(LEAST_SECONDS / 2), ("works", 60.0), ("skips", 60.0)).run()
    found = record_in(tmp_path)["sections"]
    assert found["works"]["status"] == "done"
    assert (found["skips"]["status"], found["skips"]["why"]) == ("not run", "no time left")


def test_a_run_that_is_killed_leaves_what_was_measured_and_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry", "--out", str(tmp_path), "--only", "ceilings,ranks"]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "gpu-dry.json").exists() and time.monotonic() < until:
            time.sleep(0.05)
        while not (children := psutil.Process(process.pid).children()):
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert all(ended(child.pid) for child in children)
    found = record_in(tmp_path)
    assert found["sections"]["ceilings"]["status"] == "done"
    assert found["sections"]["ceilings"]["parts"]["copy"]["gb_per_s"] > 0
    assert "## ceilings" in (tmp_path / "gpu-dry.md").read_text()


def test_results_are_rendered_again_on_request(tmp_path: Path) -> None:
    runner(tmp_path, Budget(60), ("works", 60.0)).run()
    page = (tmp_path / "gpu-dry.md").read_text()
    (tmp_path / "gpu-dry.md").unlink()
    assert main(["--render", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "gpu-dry.md").read_text() == page


def test_a_line_cut_off_in_the_middle_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "gpu.jsonl"
    file.write_text('{"run": "a", "section": "meta", "part": "x", "values": {"ms": 1.0}}\n{"run": "a", "sec')
    lines = read(file)
    assert len(lines) == 1
    assert record_of(lines)["sections"]["meta"]["status"] == "not finished"
    assert "Not finished" in markdown(record_of(lines))


def test_without_a_gpu_it_says_so_at_once_and_what_to_do(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    assert main(["--out", str(tmp_path), "--data", str(tmp_path / "none.npz")]) == 2
    assert time.monotonic() - began < 60
    said = capfd.readouterr().err
    assert "no GPU can be used: torch is a CPU build" in said
    assert "none.npz is no file" in said
    assert not list(tmp_path.iterdir())


def test_an_unknown_section_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=r"there is no section x; there are ceilings, gradient, .*training"):
        chosen(["meta", "x"])


def test_make_gpu_installs_nothing_and_hands_over_what_is_given() -> None:
    said = ["make", "-n", "gpu", "PYTHON=py", "GPU_SECONDS=90", "ONLY=meta,fit", "OUT=o", "DATA=d.npz"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    shown = subprocess.run(said, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert "install" not in shown
    for words in ("py -m benchmarks.gpu", '--seconds "90"', '--only "meta,fit"', '--out "o"', '--data "d.npz"'):
        assert words in shown


def test_each_section_has_its_share_and_what_those_before_have_left() -> None:
    budget, names = Budget(240, 180), [section.name for section in SECTIONS]
    meta, training = names.index("meta"), names.index("training")
    before = sum(section.seconds for section in SECTIONS[:meta])
    assert sum(section.seconds for section in SECTIONS) == 240
    assert budget.allowed(SECTIONS, meta, before) == SECTIONS[meta].seconds
    assert budget.allowed(SECTIONS, meta, before - 20) == SECTIONS[meta].seconds + 20
    assert budget.allowed(SECTIONS, meta, 300) == 0
    assert Budget(480, 180).allowed(SECTIONS, meta, 2 * before) == 2 * SECTIONS[meta].seconds
    assert budget.allowed(SECTIONS, training, 100) == 180 + 140
    assert budget.allowed(SECTIONS, training, 500) == 180
    assert budget.allowed(chosen(["meta"]), 0, 0) == 240
    assert budget.allowed(chosen(["training"]), 0, 0) == 180 + 240


def test_an_excerpt_names_no_folder_of_the_machine() -> None:
    text = f'  File "{ROOT}/benchmarks/gpu/ways.py", line 3\n  File "/home/someone/env/lib/torch/nn/x.py", line 5\nboom'
    assert excerpt(text) == 'File "benchmarks/gpu/ways.py", line 3 | File "nn/x.py", line 5 | boom'


def met(results: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Measured and met by the line's work."""
    return {row["work"]: (row["measured"], row["met"]) for row in rows(results)}


def test_the_targets_are_judged_by_the_best_way_of_each_precision() -> None:
    meta = {
        "24 scans, tf32x3, eager": {"ms": 120.0, "reserved_gb": 3.0},
        "24 scans, tf32x3, captured": {"ms": 44.0, "reserved_gb": 1.9},
        "24 scans, tf32, captured": {"failed": "out of memory"},
        "24 scans, fp32, captured": {"ms": 1.0, "reserved_gb": 1.0},
        "3 scans, tf32x3, captured": {"ms": 29.0},
    }
    found = met({"meta": meta})
    assert found["meta step, B = 24, G = 10, γ = 0.25, tf32x3"] == ("44 ms (captured)", "goal")
    assert found["meta step, B = 24, G = 10, γ = 0.25, tf32"] == (NOT_MEASURED, NOT_MEASURED)
    assert found["its memory, tf32x3"] == ("1.9 GB (captured)", "goal")
    assert found["the same for 24 scans dealt to 8 GPUs (3 scans a rank), tf32x3"] == ("29 ms (captured)", "gate")


def test_gauss_newton_counts_only_at_the_psnr_of_plain_steps() -> None:
    work = "fit, Gauss-Newton, 3 steps, at ≥ the PSNR of 20 plain steps, tf32"
    for gain, expected in ((0.3, "goal"), (-0.1, "**no**"), (None, "**no**")):
        values = {"scans_per_s": 1200.0} | ({} if gain is None else {"psnr_over_plain": gain})
        assert met({"fit": {"Gauss-Newton, tf32, captured": values}})[work][1] == expected
    slow = {"fit": {"Gauss-Newton, tf32, captured": {"scans_per_s": 400.0, "psnr_over_plain": 1.0}}}
    assert met(slow)[work] == ("400 scans/s (captured; +1.00 dB over plain steps)", "**no**")


def test_the_largest_case_has_to_train_with_all_its_scans() -> None:
    work, name = "γ = 1, 224², P = 16384, B = 24: trains", "the largest: one training step"
    values = {
        "reserved_gb": 15.0,
        "seconds": 3.0,
        "scans": 24,
        "scans_asked": 24,
        "finite": True,
        "way": "tf32x3, eager",
    }
    assert met({"memory": {name: values}})[work][1] == "goal"
    assert met({"memory": {name: values | {"scans": 12}}})[work][1] == "**no**"
    assert met({"memory": {name: values | {"finite": False}}})[work][1] == "**no**"
    measured, verdict = met({"memory": {name: {"failed": "out of memory"}}})[work]
    assert (measured, verdict) == ("does not train: out of memory", "**no**")


def test_chunks_are_sized_as_a_run_sizes_them() -> None:
    """The benchmark has no access to the run's own numbers: it runs without what reads run files."""
    assert (ways.SWEEP_BYTES, ways.SHARE_OF_FREE) == (settle_chunks.GPU_SWEEP_BYTES, settle_chunks.GPU_SHARE)

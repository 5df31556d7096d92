"""Latents of the public code as tables, and back."""

from __future__ import annotations

import io
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import (
    LeaseLostError,
    MedfunctaError,
    QuarantineLimitError,
    RunFileError,
    ScanError,
    StageOrderError,
)
from medfuncta_dist.evaluation.decode import decode_key, decode_to_file
from medfuncta_dist.evaluation.evaluation_driver import evaluate
from medfuncta_dist.exchange import import_plan
from medfuncta_dist.exchange.compared_scans import OTHER_SCAN
from medfuncta_dist.exchange.export_latents import export_latents
from medfuncta_dist.exchange.import_latents import import_latents
from medfuncta_dist.exchange.import_network import import_to_run
from medfuncta_dist.exchange.import_task import NO_FILE, TOO_LARGE
from medfuncta_dist.exchange.latent_file import (
    NO_LATENT,
    OTHER_LABEL,
    OTHER_SIZE,
    OTHER_TYPE,
    UNUSED,
    LabelForm,
    latent_bytes,
    parse_latent,
)
from medfuncta_dist.exchange.latent_folder import list_folder
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.fitting.fit_rows import NOT_FINITE, NOT_STORABLE
from medfuncta_dist.fitting.latent_ledger import Commit, psnr_by_split, read_commits
from medfuncta_dist.forget.forget_driver import open_place
from medfuncta_dist.integrity.verify import PARTS
from medfuncta_dist.latent_table.latent_table import LatentTable
from medfuncta_dist.prior.prior_latents import find_source, read_splits
from medfuncta_dist.probe.probe_driver import probe_run
from medfuncta_dist.scans.private.private_folder import load_or_create_salt
from medfuncta_dist.scans.private.private_mapping import open_mapping
from medfuncta_dist.stages.preflight import check_fitting
from medfuncta_dist.stages.readiness import require_ready
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.unit.cli.calls import call, call_json
from tests.unit.exchange.public_code import Wrapper, new_wrapper, write_latents
from tests.unit.exchange.test_public_network import run_of, saved
from tests.unit.latents.fitted import COUNTS, packed
from tests.unit.publication.published import publish

Run = tuple[RunFile, Wrapper, Path]
SIZES = {"train": 22, "test": 9}


def here(run: RunFile, folder: Path, **more: Any) -> dict[str, Any]:
    return import_latents(run, str(folder), map_here, **more)


def started(tmp_path: Path, **sections: Any) -> tuple[RunFile, Wrapper]:
    """A run whose network is the public code's."""
    run, public = run_of(tmp_path), new_wrapper((12, 12))
    run = RunFile.model_validate(run.model_dump() | {k: run.model_dump()[k] | v for k, v in sections.items()})
    import_to_run(run, str(saved(public, tmp_path / "best.model")))
    return run, public


def latents_of(seed: int, count: int) -> torch.Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)) * 0.3


@pytest.fixture
def without_scans(tmp_path: Path) -> Run:
    run, public = started(tmp_path)
    folder = public_folder(tmp_path)
    torch.save(public.state_dict(), folder / "model.pt")
    return run, public, folder


def public_folder(tmp_path: Path) -> Path:
    """A published folder: splits, files, and labels as MedMNIST gives them."""
    for seed, (split, count) in enumerate(SIZES.items()):
        labels = torch.arange(count, dtype=torch.uint8)[:, None] % 2
        write_latents(tmp_path / "mednf", split, latents_of(seed, count), labels)
    return tmp_path / "mednf"


@pytest.fixture
def with_scans(tmp_path: Path) -> Run:
    """The public code's order: file N is the latent of the npz's scan N. A few steps by its own fitting."""
    run, public = started(tmp_path)
    packed(run, tmp_path)
    folder = tmp_path / "mednf"
    npz = np.load(tmp_path / "archive" / "scans-0.npz")
    for split in COUNTS:
        images = torch.from_numpy(npz[f"{split}_images"]).float()[:, None] / 255
        phi = torch.zeros(len(images), 8, requires_grad=True)
        for _ in range(30):
            out = public.model(public.grid[None].repeat(len(phi), 1, 1), phi).transpose(1, 2).reshape(images.shape)
            loss = (out - images).square().mean(dim=(1, 2, 3)).sum()
            phi = (phi - 0.1 * torch.autograd.grad(loss, phi)[0]).detach().requires_grad_()
        write_latents(folder, split, phi, torch.from_numpy(npz[f"{split}_labels"]))
    return run, public, folder


def contents(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Every file, as the public code's classifier reads it."""
    found = {}
    for path in sorted(folder.glob("*/*.pt")):
        data = torch.load(path, weights_only=True)
        found[f"{path.parent.name}/{path.name}"] = data["modulations"], data["label"]
    return found


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(a, b) and (a.dtype, a.shape) == (b.dtype, b.shape)
        for name in one
        for a, b in zip(one[name], two[name], strict=True)
    )


def test_a_published_folder_becomes_a_table_that_decodes_as_the_public_code_does(without_scans, tmp_path):
    run, public, folder = without_scans
    answer = here(run, folder)
    assert (answer["files"], answer["other_files"], answer["quarantined"], answer["psnr"]) == (31, 1, 0, {})
    table = LatentTable.open(run)
    assert len(table) == 31
    private = Path(str(run.data.private))
    for key, split, labels, latent in zip(table.keys, table.splits, table.labels, table.latents, strict=True):
        with open_mapping(private) as mapping:
            (row,) = mapping.of_beginning(key)
        path = Path(row.uri)
        assert path.parent.name == split
        data = torch.load(path, weights_only=True)
        assert labels == data["label"].tolist()
        assert torch.equal(data["modulations"], torch.from_numpy(latent))
        values = decode_key(run, key, (9, 14)).values
        wrapper = Wrapper(public.model, (9, 14))
        assert np.abs(values - wrapper.decode(data["modulations"][None])[0].numpy()).max() <= 1e-6
    decoded = decode_to_file(run, table.keys[0], tmp_path / "scan.png")
    assert decoded["psnr"] is None
    assert "has no PSNR" in decoded["said"][0]
    assert probe_run(run)["scans"] == SIZES
    assert not table.below_min.any()
    assert np.isnan(table.psnr).all()


def test_the_round_trip_is_exact_and_nothing_is_named_by_its_file(without_scans, tmp_path):
    run, _, folder = without_scans
    here(run, folder)
    answer = export_latents(run, tmp_path / "out")
    assert (answer["latents"], answer["written"]) == (31, 31)
    assert same(contents(folder), contents(tmp_path / "out"))
    for stored in (tmp_path / "storage").rglob("*"):
        assert not stored.is_file() or b"datapoint" not in stored.read_bytes()


def test_with_scans_psnr_is_measured_and_the_run_goes_on(with_scans, tmp_path):
    run, public, folder = with_scans
    answer = here(run, folder)
    assert answer["counts"] == {"packed": 31, "fitted": 31, "quarantined": 0, "flagged": answer["counts"]["flagged"]}
    npz = np.load(tmp_path / "archive" / "scans-0.npz")
    expected = []
    for number in range(22):
        data = torch.load(folder / f"train/datapoint_{number}.pt", weights_only=True)
        made = public.decode(data["modulations"][None])[0, 0].numpy()
        expected.append(-10 * np.log10(np.square(npz["train_images"][number] / 255 - made).mean()))
    rows = LatentTable.open(run, splits=["train"])
    assert sorted(rows.psnr.tolist()) == pytest.approx(sorted(expected), abs=1e-3)
    assert answer["psnr"]["train"]["mean"] == pytest.approx(np.mean(expected), abs=1e-3)
    # The stages that follow take it as their own.
    assert fit(run, map_here).fitted_now == 0
    summary = evaluate(run, map_here)
    assert summary["counts"]["fitted"] == 31
    assert summary["largest_psnr_difference"] < 1e-3
    figures, _, faults = PARTS["latents"](run, ObjectStore(run.storage))
    assert (figures["fitted"], faults) == (31, [])
    export_latents(run, tmp_path / "out")
    assert same(contents(folder), contents(tmp_path / "out"))


def _file(run: RunFile, folder: Path) -> str:
    (folder / "run.yaml").write_text(dump(run))
    return str(folder / "run.yaml")


def test_a_file_of_another_scan_or_of_none_is_quarantined_with_its_reason(with_scans):
    run, _, folder = with_scans
    run = run.model_copy(update={"data": run.data.model_copy(update={"max_quarantined": 0.5})})
    (folder / "train/datapoint_3.pt").unlink()
    data = torch.load(folder / "train/datapoint_4.pt", weights_only=True)
    torch.save(data | {"label": 1 - data["label"].int()}, folder / "train/datapoint_4.pt")
    (folder / "test/datapoint_77.pt").write_bytes((folder / "test/datapoint_0.pt").read_bytes())
    answer = here(run, folder)
    assert answer["reasons"] == {NO_FILE: 1, OTHER_SCAN: 1}
    assert answer["quarantined"] == 2
    (folder / "train/datapoint_3.pt").write_bytes((folder / "train/datapoint_5.pt").read_bytes())
    assert here(run, folder)["reasons"] == {OTHER_SCAN: 1}  # only such ranges are read again
    assert len(LatentTable.open(run)) == 30


def test_scans_whose_numbers_nobody_knows_are_refused(with_scans, tmp_path):
    run, _, folder = with_scans
    packed(run, tmp_path, seed=1)  # a second npz: whose scan 3 is datapoint_3?
    with pytest.raises(RunFileError, match="cannot be told"):
        here(run, folder)


def latent_file(**changes: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"modulations": torch.ones(8), "label": torch.tensor([1])} | changes, buffer)
    return buffer.getvalue()


BAD = {
    "hostile": (pickle.dumps({"modulations": print}, 2), "no whole zip file"),
    "cut": (latent_file()[:-40], "no whole zip file"),
    "empty": (b"", "no whole zip file"),
    "other": (latent_file(modulations=[1.0] * 8), NO_LATENT),
    "size": (latent_file(modulations=torch.ones(9)), OTHER_SIZE),
    "type": (latent_file(modulations=torch.ones(8).double()), OTHER_TYPE),
    "nan": (latent_file(modulations=torch.full((8,), torch.nan)), NOT_FINITE),
    "label": (latent_file(label=torch.tensor([0.5])), OTHER_LABEL),
    "long label": (latent_file(label=torch.tensor([2**40])), OTHER_LABEL),
    "word": (latent_file(label="Doe^Jane"), OTHER_LABEL),
    "date": (latent_file(label=torch.tensor([20240131])), "dates"),
}


def test_bad_files_are_quarantined_each_by_its_reason_and_the_others_come(without_scans):
    run, _, folder = without_scans
    run = run.model_copy(update={"data": run.data.model_copy(update={"max_quarantined": 0.9})})
    for number, (data, _) in enumerate(BAD.values()):
        (folder / f"train/datapoint_{number}.pt").write_bytes(data)
    with (folder / "train/datapoint_20.pt").open("wb") as file:
        file.truncate(2**26 + 1)
    answer = here(run, folder)
    assert answer["counts"]["fitted"] == 31 - len(BAD) - 1
    reasons = " | ".join(answer["reasons"])
    assert all(said in reasons for _, said in [*BAD.values(), ("", TOO_LARGE)])
    assert "Doe" not in reasons
    commits = read_commits(ObjectStore(run.storage), answer["latents"]).values()
    assert sum(commit.unmeasured for commit in commits) == sum(commit.rows for commit in commits)


def test_too_many_bad_files_end_the_command_and_the_table_does_not_count(without_scans):
    run, _, folder = without_scans
    for number in range(5):
        (folder / f"train/datapoint_{number}.pt").write_bytes(b"")
    with pytest.raises(QuarantineLimitError, match="5 of 31"):
        here(run, folder)
    with pytest.raises(StageOrderError):
        LatentTable.open(run)


def test_a_killed_import_goes_on_and_gives_the_same_table(without_scans, monkeypatch):
    run, _, folder = without_scans
    monkeypatch.setattr(import_plan, "SCANS_PER_RANGE", 5)
    reports: list[tuple[int, int]] = []

    class Killed(Exception): ...

    def dying(report: Any) -> None:
        if report.done >= 10:
            raise Killed

    with pytest.raises(Killed):
        here(run, folder, on_progress=dying)
    with pytest.raises(StageOrderError):  # a part of a table is none
        LatentTable.open(run)
    here(run, folder, on_progress=lambda report: reports.append((report.done, report.total)))
    assert reports[0][0] >= 9  # those of the ranges that were committed
    assert reports[-1] == (31, 31)
    assert len(LatentTable.open(run)) == 31
    store = ObjectStore(run.storage)
    before = {o.path: o.version for o in store.list(f"runs/{run.name}/latents")}
    here(run, folder)
    assert {o.path: o.version for o in store.list(f"runs/{run.name}/latents")} == before


def test_a_changed_folder_is_another_table(without_scans):
    run, _, folder = without_scans
    here(run, folder)
    (folder / "test/datapoint_8.pt").unlink()
    write_latents(folder, "val", latents_of(5, 3), torch.zeros(3, 1, dtype=torch.uint8))
    here(run, folder)
    table = LatentTable.open(run)
    assert (len(table), set(table.splits)) == (33, {"train", "test", "val"})


def test_stages_that_need_scans_say_that_there_are_none(without_scans):
    run, _, folder = without_scans
    here(run, folder)
    for stage in (evaluate, fit):
        with pytest.raises(StageOrderError, match="imported without their scans"):
            stage(run, map_here)
    store = ObjectStore(run.storage)
    with pytest.raises(StageOrderError, match="imported without their scans"):
        check_fitting(run, store)  # what the command fit asks first
    for name in ("fit", "evaluate"):
        with pytest.raises(StageOrderError, match="imported without their scans"):
            require_ready(run, store, [name])
    figures, _, faults = PARTS["latents"](run, ObjectStore(run.storage))
    assert (figures["fitted"], faults) == (31, [])


def test_a_table_without_scans_can_train_a_prior_if_it_has_two_splits(without_scans):
    run, _, folder = without_scans
    here(run, folder)
    store = ObjectStore(run.storage)
    require_ready(run, store, ["prior"])
    source = find_source(run, store)
    assert source.held_out == ("test",)
    assert len(read_splits(store, source, ["train"]).latents) == SIZES["train"]
    shutil.rmtree(folder / "test")
    here(run, folder)
    with pytest.raises(RunFileError, match="no held-out scan has a latent") as caught:
        find_source(run, store)
    assert "import-latents" in str(caught.value)
    assert "pack" not in str(caught.value)


def test_forget_says_how_a_scan_leaves_a_table_without_scans(without_scans):
    run, _, folder = without_scans
    with pytest.raises(StageOrderError, match="does not exist"):
        open_place(run_with_salt(run))
    here(run, folder)
    with pytest.raises(StageOrderError, match="imported without their scans: there is no data set") as caught:
        open_place(run)
    assert "take the scan's file out of the folder" in str(caught.value)


def run_with_salt(run: RunFile) -> RunFile:
    load_or_create_salt(Path(str(run.data.private)))
    return run


def test_a_table_without_scans_is_not_published(without_scans, tmp_path):
    """Nobody knows its PSNR, nor which scans may name their patient."""
    run, _, folder = without_scans
    here(run, folder)
    with pytest.raises(StageOrderError, match="imported without their scans"):
        publish(run, tmp_path / "published")
    assert not (tmp_path / "published").exists()


def test_scans_that_are_packed_later_are_joined_by_importing_again(without_scans, tmp_path):
    run, _, folder = without_scans
    here(run, folder)
    packed(run, tmp_path)
    answer = here(run, folder)
    assert answer["psnr"].keys() == {"train", "test"}
    assert np.isfinite(LatentTable.open(run).psnr).all()


def test_an_int8_table_is_as_fit_stores_it(tmp_path):
    run, _ = started(tmp_path, fit={"storage_type": "int8"})
    here(run, public_folder(tmp_path))
    table = LatentTable.open(run)
    assert table.storage.storage_type == "int8"
    (latent,) = (latents_of(1, 9)[n] for n in [4])
    closest = np.abs(table.latents - latent.numpy()).max(axis=1).min()
    assert 0 < closest <= float(latent.abs().max()) / 127


def test_a_latent_beyond_float16_is_quarantined_where_that_is_stored(tmp_path):
    run, _ = started(tmp_path, fit={"storage_type": "float16"}, data={"max_quarantined": 0.5})
    folder = public_folder(tmp_path)
    (folder / "test/datapoint_0.pt").write_bytes(latent_file(modulations=torch.full((8,), 1e6)))
    assert here(run, folder)["reasons"] == {f"{UNUSED}{NOT_STORABLE}": 1}


@pytest.mark.parametrize(
    ("label", "labels"),
    [
        (torch.tensor(3), [3]),
        (torch.tensor([1], dtype=torch.uint8), [1]),
        (torch.tensor([0, 1, 0, 1]), [0, 1, 0, 1]),
        (torch.tensor([], dtype=torch.int64), []),
        (2, [2]),
        ([3, -1], [3, -1]),
        ([], []),
    ],
)
def test_labels_of_every_form_come_back_as_they_were(label, labels):
    found = parse_latent(latent_file(label=label), 8)
    assert found.labels == labels
    form = LabelForm.of_text(found.form.to_text())
    again = torch.load(io.BytesIO(latent_bytes(found.numbers, found.labels, form)), weights_only=True)
    assert type(again["label"]) is type(label)
    assert torch.equal(torch.as_tensor(again["label"]), torch.as_tensor(label))
    assert torch.as_tensor(again["label"]).dtype == torch.as_tensor(label).dtype


@pytest.mark.parametrize("label", ["1", None, True, 0.5, [1, "2"], [True], [[1]], 2**31, {"1": 1}, torch.ones(2, 2)])
def test_labels_that_are_no_whole_numbers_are_refused(label):
    with pytest.raises(ScanError) as caught:
        parse_latent(latent_file(label=label), 8)
    assert caught.value.what == OTHER_LABEL


def test_a_file_without_a_label_is_refused():
    buffer = io.BytesIO()
    torch.save({"modulations": torch.ones(8)}, buffer)
    with pytest.raises(ScanError) as caught:
        parse_latent(buffer.getvalue(), 8)
    assert caught.value.what == NO_LATENT


@pytest.mark.parametrize("other", [1, [1], torch.tensor(1), torch.tensor([1])])
def test_labels_of_several_forms_are_imported_and_never_exported_in_another_form(without_scans, tmp_path, other):
    run, _, folder = without_scans
    path = folder / "test/datapoint_1.pt"
    torch.save(torch.load(path, weights_only=True) | {"label": other}, path)
    assert here(run, folder)["counts"]["fitted"] == 31
    assert LatentTable.open(run, splits=["test"]).labels.count([1]) == 4
    with pytest.raises(RunFileError, match="came in several forms"):
        export_latents(run, tmp_path / "out")


def test_a_slice_of_a_batch_is_read_as_the_latent_it_is(tmp_path):
    write_latents(tmp_path, "train", latents_of(0, 6), torch.arange(6)[:, None], batch=3)
    data = (tmp_path / "train/datapoint_4.pt").read_bytes()
    assert torch.equal(torch.from_numpy(parse_latent(data, 8).numbers), latents_of(0, 6)[4])


@pytest.mark.parametrize("names", [["datapoint_0.pt"], ["train/a/datapoint_0.pt"], ["Train/datapoint_0.pt"], []])
def test_a_folder_of_another_layout_is_refused(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(RunFileError, match="no latents of the public code here"):
        list_folder(str(tmp_path))


def test_files_called_in_two_ways_are_refused(tmp_path):
    for name in ("train/datapoint_0.pt", "train/scan_1.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(RunFileError, match="2 different ways"):
        list_folder(str(tmp_path))


def test_an_export_goes_on_and_never_mixes_two_tables(without_scans, tmp_path):
    run, _, folder = without_scans
    here(run, folder)
    out = tmp_path / "out"
    export_latents(run, out)
    (out / "train/datapoint_7.pt").unlink()
    assert export_latents(run, out)["written"] == 1
    (out / "medfuncta-export.json").write_text('{"format_version":1,"network":"x","table":"another"}')
    with pytest.raises(RunFileError, match="another table"):
        export_latents(run, out)
    with pytest.raises(RunFileError, match="not empty"):
        export_latents(run, folder)


def test_a_folder_in_s3_is_read_like_a_local_one(without_scans, s3):
    run, _, folder = without_scans
    root = s3()
    for path in folder.rglob("*.pt"):
        ObjectStore(root).write(str(path.relative_to(folder)), path.read_bytes())
    assert import_latents(run, root, map_here)["counts"]["fitted"] == 31


def test_an_import_that_lost_its_lease_commits_nothing_more(without_scans, monkeypatch):
    run, _, folder = without_scans
    from medfuncta_dist.exchange import import_task
    from medfuncta_dist.storage.leases.lease import Fence

    def lost(self: Fence, store: ObjectStore) -> None:
        raise LeaseLostError("lost")

    original = import_task._read_files

    def then(*given: Any) -> Any:
        monkeypatch.setattr(Fence, "require", lost)
        return original(*given)

    monkeypatch.setattr(import_task, "_read_files", then)
    with pytest.raises(MedfunctaError, match="lost"):
        here(run, folder)
    assert not ObjectStore(run.storage).list(f"runs/{run.name}/imported")


def test_a_record_without_unmeasured_rows_is_as_earlier_versions_wrote_it():
    known = {"split": "train", "shard": "0" * 64, "start": 0, "stop": 2, "part": None}
    assert "unmeasured" not in Commit(rows=2, psnr_sum=60.0, psnr_squares=1800.0, **known).body()
    half = Commit(rows=2, psnr_sum=30.0, psnr_squares=900.0, unmeasured=1, **known)
    assert half.body()["unmeasured"] == 1
    assert psnr_by_split([half])["train"].mean == 30.0
    assert psnr_by_split([Commit(rows=2, unmeasured=2, **known)]) == {}


def test_the_commands_answer_as_all_others_do(tmp_path, capfd):
    run, public = run_of(tmp_path), new_wrapper((12, 12))
    file, folder = _file(run, tmp_path), public_folder(tmp_path)
    state = str(saved(public, tmp_path / "best.model"))
    assert call(capfd, "import-network", state)[0] == 2
    assert call(capfd, "import-latents", file, str(folder))[0] == 2  # no network yet
    assert call_json(capfd, "import-network", state, "--run", file)["exit_code"] == 0
    made = call_json(capfd, "import-network", state, "--out", str(tmp_path / "n"), "--w0", "10", "--w0-increment", "5")
    assert made["spec"]["omegas"] == [10, 15, 20, 25]
    (folder / "train/datapoint_5.pt").write_bytes(b"")
    answer = call_json(capfd, "import-latents", file, str(folder))
    assert (answer["exit_code"], answer["quarantined"], answer["counts"]["fitted"]) == (3, 1, 30)
    assert call_json(capfd, "export-latents", file, "--out", str(tmp_path / "out"))["latents"] == 30
    exported = call_json(capfd, "export-network", file, "--out", str(tmp_path / "out.model"), "--shape", "20x20")
    assert exported["config"]["w0"] == 10
    assert torch.load(tmp_path / "out.model", weights_only=True)["grid"].shape == (400, 2)
    assert call_json(capfd, "probe", file)["scans"] == {"train": 21, "test": 9}

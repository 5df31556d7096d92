from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, MedfunctaError, RunChangedError, RunFileError
from medfuncta_dist.exchange.export_network import export_network, network_of_run
from medfuncta_dist.exchange.import_network import import_to_folder, import_to_run, read_public_network
from medfuncta_dist.exchange.public_network import Schedule
from medfuncta_dist.exchange.torch_file import RefusedFileError, load
from medfuncta_dist.fields.field_kinds import init_params
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.network.committed_network import committed_network, require_all_steps
from medfuncta_dist.storage.object_store import ObjectStore
from tests.unit.exchange.public_code import Wrapper, new_wrapper
from tests.unit.latents.fitted import ready, run_file

SCHEDULE = Schedule(10, 5)
CASES = [((9,), 1, True), ((7, 6), 3, True), ((7, 6), 1, False), ((4, 5, 3), 1, True)]
FIELD = {"layers": 5, "hidden": 16, "latent": 8, "omega_first": 10, "omega_last": 30, "modulate_first": True}


def saved(wrapper: Wrapper, path: Path) -> Path:
    torch.save(wrapper.state_dict(), path)
    return path


def run_of(folder: Path, **field: object) -> RunFile:
    return run_file(folder, field=FIELD | field)


@pytest.mark.parametrize(("shape", "channels", "skips"), CASES)
def test_an_imported_network_decodes_as_the_public_code_does(tmp_path, shape, channels, skips):
    public = new_wrapper(shape, channels, skips=skips)
    network = read_public_network(saved(public, tmp_path / "best.model"), Schedule(10, 5, skips), shape)
    latents = torch.randn(4, 8)
    assert (network.decode(latents, shape).clamp(0, 1) - public.decode(latents)).abs().max() <= 1e-6
    finer = tuple(2 * n for n in shape)  # the grid in the file binds nobody
    other = Wrapper(public.model, finer)
    assert (network.decode(latents, finer).clamp(0, 1) - other.decode(latents)).abs().max() <= 1e-6


@pytest.mark.parametrize(("shape", "channels", "skips"), CASES)
def test_an_exported_network_decodes_in_the_public_code_and_comes_back_exactly(tmp_path, shape, channels, skips):
    omegas = Schedule(10, 5, skips).omegas(5)
    spec = SirenSpec(len(shape), channels, 5, 16, 8, omegas, skips, modulate_first=channels == 3)
    ours = SharedNetwork(spec, init_params(spec, torch.Generator().manual_seed(3)), {"shape": list(shape)}, {}, "", "")
    answer = export_network(ours, tmp_path / "best.model")
    config = answer["config"]
    assert (config["w0"], config["w0_increment"], config["enable_skip_connections"]) == (10, 5, skips)
    public = new_wrapper(shape, channels, skips=skips)
    public.load_state_dict(torch.load(tmp_path / "best.model", weights_only=True))  # strict: nothing more or less
    latents = torch.randn(3, 8)
    assert (ours.decode(latents, shape).clamp(0, 1) - public.decode(latents)).abs().max() <= 1e-6
    back = read_public_network(tmp_path / "best.model", Schedule(10, 5, skips))
    assert all(torch.equal(back.params[name], tensor) for name, tensor in ours.params.items())
    assert back.spec.omegas == omegas
    assert "first layer is not modulated" in " ".join(answer["said"]) or channels == 3


def test_a_whole_module_tells_what_a_state_dict_does_not(tmp_path):
    public = new_wrapper((6, 6), skips=False)
    data = _as_module_of_the_public_code(public)
    (tmp_path / "model.pt").write_bytes(data)
    network = read_public_network(tmp_path / "model.pt")
    assert network.spec.omegas == (10, 15, 20, 25)
    assert not network.spec.residual
    latents = torch.randn(2, 8)
    assert (network.decode(latents, (6, 6)).clamp(0, 1) - public.decode(latents)).abs().max() <= 1e-6
    with pytest.raises(RunFileError, match="the options say otherwise"):
        read_public_network(tmp_path / "model.pt", Schedule(30, 0))


def _as_module_of_the_public_code(public: Wrapper) -> bytes:
    """``torch.save(model.model)``, with the names that the public code's classes have."""
    buffer, renamed = io.BytesIO(), io.BytesIO()
    public.model.modulations = torch.zeros(1, 8, requires_grad=True) * 1  # type: ignore[assignment]
    torch.save(public.model, buffer)
    with zipfile.ZipFile(buffer) as written, zipfile.ZipFile(renamed, "w") as archive:
        for name in written.namelist():
            data = written.read(name)
            for own, theirs in NAMES.items():
                data = data.replace(own, theirs) if name.endswith("/data.pkl") else data
            archive.writestr(name, data)
    return renamed.getvalue()


NAMES = {
    b"ctests.unit.exchange.public_code\nSiren\n": b"cmodels.inrs\nLatentModulatedSIREN\n",
    b"ctests.unit.exchange.public_code\nLayer\n": b"cmodels.layers\nLatentModulatedSIRENLayer\n",
}


def test_a_state_dict_without_omega_is_refused(tmp_path):
    with pytest.raises(RunFileError, match="does not tell ω") as found:
        read_public_network(saved(new_wrapper((6, 6)), tmp_path / "x.model"))
    assert "--w0" in found.value.do


def test_it_becomes_the_network_of_a_run_which_then_needs_no_training(tmp_path):
    run, public = run_of(tmp_path), new_wrapper((12, 12))
    file = saved(public, tmp_path / "best.model")
    first = import_to_run(run, str(file))
    assert first["new"]
    assert not import_to_run(run, str(file))["new"]
    store = ObjectStore(run.storage)
    done = committed_network(store, run.name)
    assert done is not None
    assert (done.imported, done.step) == (True, 0)
    require_all_steps(run, store)
    latents = torch.randn(2, 8)
    assert (network_of_run(run).decode(latents, (12, 12)).clamp(0, 1) - public.decode(latents)).abs().max() <= 1e-6
    with pytest.raises(RunFileError, match="has a network already"):
        import_to_run(run, str(saved(new_wrapper((12, 12), seed=1), tmp_path / "other.model")))


def test_training_an_imported_network_is_refused_in_words(tmp_path):
    from medfuncta_dist.training.trainer import train

    run = run_of(tmp_path)
    import_to_run(run, str(saved(new_wrapper((12, 12)), tmp_path / "best.model")))
    with pytest.raises(RunChangedError, match="was imported") as found:
        train(run, "0" * 64)
    assert "fork" in found.value.do


@pytest.mark.parametrize(
    ("change", "said"),
    [({"latent": 9}, "field.latent"), ({"hidden": 8}, "field.hidden"), ({"modulate_first": False}, "modulate_first")],
)
def test_a_run_file_of_another_architecture_is_refused_and_not_kept(tmp_path, change, said):
    file = saved(new_wrapper((12, 12), increment=5.0), tmp_path / "best.model")
    run = run_of(tmp_path, **change)
    with pytest.raises(RunFileError, match=said):
        import_to_run(run, str(file))
    assert not ObjectStore(run.storage).exists(f"runs/{run.name}/run.yaml")


def test_a_run_with_another_number_of_layers_is_told_the_file_s(tmp_path):
    file = saved(new_wrapper((12, 12), layers=6), tmp_path / "best.model")
    with pytest.raises(RunFileError, match=r"field.layers is 5, the file's network has 6"):
        import_to_run(run_of(tmp_path), str(file))


def test_a_folder_can_be_loaded_and_says_what_a_run_file_must_say(tmp_path):
    file = saved(new_wrapper((6, 6)), tmp_path / "best.model")
    answer = import_to_folder(str(file), tmp_path / "network", SCHEDULE, (6, 6))
    assert SharedNetwork.load(tmp_path / "network").digest == answer["network"]
    assert "  modulate_first: true" in answer["said"]
    with pytest.raises(RunFileError, match="not empty"):
        import_to_folder(str(file), tmp_path / "network", SCHEDULE)


@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_import_into_a_folder_leaves_no_file_of_a_network_half_written(tmp_path, monkeypatch, number):
    file, folder = saved(new_wrapper((6, 6)), tmp_path / "best.model"), tmp_path / "network"
    write, written = Path.write_bytes, []

    def half(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) <= number:
            return write(path, data)
        write(path, data[: len(data) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", half)
        with pytest.raises(KeyboardInterrupt):
            import_to_folder(str(file), folder, SCHEDULE)
    assert not (folder / "network.json").exists()
    with pytest.raises(MedfunctaError, match="there is no network"):
        SharedNetwork.load(folder)
    import_to_folder(str(file), tmp_path / "whole", SCHEDULE)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()


def test_what_the_public_code_cannot_express_is_refused_by_name(tmp_path):
    run = ready(tmp_path, "basis")
    with pytest.raises(RunFileError, match="no fields of kind basis"):
        export_network(network_of_run(run), tmp_path / "x.model")
    uneven = SirenSpec(2, 1, 5, 16, 8, (10, 15, 21, 25))
    network = SharedNetwork(uneven, init_params(uneven, torch.Generator()), {"shape": [6, 6]}, {}, "", "")
    with pytest.raises(RunFileError, match="not evenly spaced"):
        export_network(network, tmp_path / "x.model")
    assert not (tmp_path / "x.model").exists()


# -- Hostile and damaged files ----------------------------------------------------------------------------------------


class _Shell:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch hacked",)


def packed_pickle(structure: bytes, members: dict[str, bytes] | None = None, method: int = 0) -> bytes:
    """A zip file as torch.save writes it, around any structure."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("archive/data.pkl", structure)
        archive.writestr("archive/version", b"3\n")
        for name, data in (members or {}).items():
            archive.writestr(f"archive/data/{name}", data)
    return buffer.getvalue()


def state_dict(**changes: object) -> bytes:
    state = new_wrapper((6, 6)).state_dict() | changes
    buffer = io.BytesIO()
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, buffer)
    return buffer.getvalue()


def claimed(numbers: int, shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,)) -> bytes:
    """A state dict of one tensor, whose storage holds four numbers."""
    structure = _rebuilt(numbers, shape, strides)
    return packed_pickle(structure, {"0": struct.pack("<4f", *range(4))})


def _rebuilt(numbers: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    class Saver(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return ("storage", torch.FloatStorage, "0", "cpu", numbers) if value is STORAGE else None

    class Tensor:
        def __reduce__(self) -> tuple[object, ...]:
            return torch._utils._rebuild_tensor_v2, (STORAGE, 0, shape, strides, False, OrderedDict())

    buffer = io.BytesIO()
    Saver(buffer, protocol=2).dump({"model.x": Tensor()})
    return buffer.getvalue()


STORAGE = frozenset({"storage"})


def tuples(levels: int, get: bytes = b"q%ch%c") -> bytes:
    """An operation for a tuple of twice a tuple, and so on: its hash takes 2^levels steps, its text as many letters."""
    again = (get % ((n,) * get.count(b"%")) for n in range(levels))
    return b")" + b"".join(one + b"\x86" for one in again)


def storage_of_key(key: bytes) -> bytes:
    return packed_pickle(b"\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\n" + key + b"X\x03\0\0\0cpuK\x01tQ.")


HOSTILE = {
    "a command": (packed_pickle(pickle.dumps(_Shell(), 2)), r"names the Python object (posix|nt|os)\.system"),
    "eval": (packed_pickle(b"cbuiltins\neval\n(X\x01\x00\x00\x001tR."), r"builtins\.eval"),
    "memory": (packed_pickle(b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\x01\x85R."), r"builtins\.bytearray"),
    "a tensor of any size": (packed_pickle(b"\x80\x02ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R."), r"torch\.Tensor"),
    "a name that hides": (packed_pickle(b"\x80\x04\x8c\x05posix\x8c\x06system\x93."), r"posix\.system"),
    "more numbers than it has": (claimed(10**9, (10**9,)), "claims more numbers"),
    "a slice beyond its numbers": (claimed(4, (5,)), "claims more numbers"),
    "one number many times": (claimed(4, (10**9,), (0,)), "do not lie one after the other"),
    "a number of gigabytes": (packed_pickle(b"\x80\x02Nr\xff\xff\xff\x7f."), "numbers more objects than it can hold"),
    "bytes that it has not": (
        packed_pickle(b"\x80\x05\x96" + bytes([0, 0, 0, 0, 0, 1, 0, 0]) + b"."),
        "cannot be read",
    ),
    "a storage whose key is no text": (storage_of_key(tuples(3)), "something else than numbers"),
    "a storage whose key is a text of gigabytes": (storage_of_key(tuples(40)), "repeats parts of itself"),
    "a key that is hashed for years": (packed_pickle(b"\x80\x02}" + tuples(60) + b"Ns."), "repeats parts of itself"),
    "the same by another operation": (packed_pickle(b"\x80\x02}" + tuples(60, b"2") + b"Ns."), "repeats parts"),
    "the same, hidden": (packed_pickle(b"\x80\x02}" + tuples(60, b"N0q%ch%c") + b"Ns."), "repeats parts of itself"),
    "the same by numbers in order": (packed_pickle(b"\x80\x04}" + tuples(60, b"\x94h%c") + b"Ns."), "repeats parts"),
    "a parameter that is a tuple": (
        packed_pickle(b"\x80\x02ctorch._utils\n_rebuild_parameter\n()tR."),
        "a parameter that is no tensor",
    ),
    "a bomb": (packed_pickle(pickle.dumps({}), {"0": bytes(10**6)}, zipfile.ZIP_DEFLATED), "compressed"),
    "members": (packed_pickle(pickle.dumps({}, 2), {str(n): b"" for n in range(5000)}), "more than 4096 members"),
    "no zip file": (pickle.dumps({"model.x": 1}), "no whole zip file"),
    "nothing": (b"", "no whole zip file"),
    "cut short": (state_dict()[:-100], "no whole zip file"),
    "a structure cut short": (packed_pickle(b"\x80\x02}q"), "structure cannot be read"),
    "no state dict": (packed_pickle(pickle.dumps([1, 2], 2)), "neither a state dict"),
    "a number in it": (packed_pickle(pickle.dumps({"model.x": 1}, 2)), "neither a state"),
    "scales": (state_dict(**{"model.layers.0.modulate_scale_layer.bias": torch.ones(16)}), "also scale the layers"),
    "an unknown tensor": (state_dict(**{"model.extra": torch.ones(2)}), "not those of 5 layers: extra"),
    "a missing tensor": (state_dict(**{"model.layers.2.linear.bias": None}), r"layers\.2\.linear\.bias"),
    "another type": (state_dict(**{"model.layers.2.linear.bias": torch.ones(16).double()}), "float64"),
    "another shape": (state_dict(**{"model.layers.2.linear.bias": torch.ones(15)}), r"\(15,\)"),
    "not finite": (state_dict(**{"model.layers.2.linear.bias": torch.full((16,), torch.nan)}), "not finite"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_unknown_file_is_refused_by_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    data, said = HOSTILE[name]
    Path("best.model").write_bytes(data)
    with pytest.raises(RunFileError, match=said) as found:
        read_public_network("best.model", SCHEDULE)
    assert found.value.where == "best.model"
    assert not Path("hacked").exists()


def test_a_file_larger_than_any_network_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "best.model").open("wb") as file:
        file.truncate(2**32 + 1)
    with pytest.raises(IntegrityError, match=str(2**32)) as found:
        read_public_network(tmp_path / "best.model", SCHEDULE)
    assert found.value.where.endswith("best.model")


def test_damage_at_any_place_is_an_error_of_ours(tmp_path):
    whole = bytearray(state_dict())
    generator = torch.Generator().manual_seed(0)
    for _ in range(250):
        data = bytearray(whole)
        for _ in range(3):
            at = int(torch.randint(len(data), (1,), generator=generator))
            data[at] = int(torch.randint(256, (1,), generator=generator))
        try:
            load(bytes(data))
        except RefusedFileError:
            continue

"""What all tests share: one real S3 server and one real Ray cluster a session, started only when a test asks, and every
shape annotation of the mathematics checked at run time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before torch or numpy start their thread pools: workers x threads must not exceed the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Before torch looks for GPUs, here and in all that tests start: the same tests do the same on every machine.
ON_GPU = os.environ.get("MEDFUNCTA_TEST_GPU") == "1"
if not ON_GPU:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

from jaxtyping import install_import_hook  # noqa: E402

import tests.typecheck  # noqa: E402, F401  # named by the hook, which does not import it

# Only in the tests: a user's run does not pay for the checks, nor need beartype. Before anything imports these modules.
install_import_hook(
    ["medfuncta_dist.fields", "medfuncta_dist.meta", "medfuncta_dist.latents.fit"], "tests.typecheck.check"
)

from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3  # noqa: E402
from tests.processes import begin_with_ray, require_named, scheduler  # noqa: E402

# Without deadlines: how long one example takes tells nothing where processes share the cores. `make test-all` asks for
# "full" by pytest's option; a property that names its own number of examples keeps it.
settings.register_profile("short", deadline=None)
settings.register_profile("full", deadline=None, max_examples=500)
settings.load_profile("short")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With MEDFUNCTA_TEST_GPU=1 only what is marked ``gpu`` runs; without it, only what is not. All
    are checked, in however many processes they run."""
    for_gpu = [item for item in items if item.get_closest_marker("gpu") is not None]
    others = [item for item in items if item.get_closest_marker("gpu") is None]
    items[:], left_out = (for_gpu, others) if ON_GPU else (others, for_gpu)
    config.hook.pytest_deselected(items=left_out)
    require_named(items)
    if hasattr(config, "workerinput"):  # one of several processes
        begin_with_ray(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``-n 2``, as in `make test`."""
    return scheduler(config, log)


@pytest.fixture
def visible_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says that it sees a GPU, as it does in a task that was granted none; whoever asks for it gets an error."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedS3]:
    """A real S3 server; its address and credentials are in the environment for the whole session."""
    with EmbeddedS3(tmp_path_factory.mktemp("s3")) as server:
        os.environ.update(server.environment)
        server.create_bucket("tests")
        yield server


@pytest.fixture(scope="session")
def s3(s3_server: EmbeddedS3) -> Callable[[], str]:
    """Call it for a storage root that nothing else uses."""
    numbers = count()
    return lambda: f"s3://tests/root-{next(numbers)}"


@pytest.fixture(scope="session")
def ray_cluster(s3_server: EmbeddedS3) -> Iterator[str]:
    """One local Ray cluster for the session, reached by every command through RAY_ADDRESS; yields its address.

    Started after the S3 server, so that its workers inherit the server's address.
    """
    import ray

    options = {"include_dashboard": False, "log_to_driver": False, "object_store_memory": 200_000_000}
    context = ray.init("local", num_cpus=4, **options)  # "local": another cluster of this machine is not ours
    os.environ["RAY_ADDRESS"] = address = context.address_info["gcs_address"]
    yield address
    del os.environ["RAY_ADDRESS"]
    ray.shutdown()


@pytest.fixture
def private(tmp_path: Path) -> str:
    """A folder for the salt and the mapping."""
    return str(tmp_path / "private")

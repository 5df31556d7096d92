"""What all tests share: one real S3 server and one real Ray cluster a session, started only when a test asks, and every
shape annotation of the mathematics checked at run time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch or numpy start their thread pools: workers x threads must not exceed the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  # named by the hook, which does not import it

# Only in the tests: a user's run does not pay for the checks, nor need beartype. Before anything imports these modules.
install_import_hook(
    ["medfuncta_dist.fields", "medfuncta_dist.meta", "medfuncta_dist.latents.fit"], "tests.typecheck.check"
)

from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3  # noqa: E402


# Without deadlines: how long one example takes tells nothing where processes share the cores. `make test-all` asks for
# "full" by pytest's option; a property that names its own number of examples keeps it.
settings.register_profile("short", deadline=None)
settings.register_profile("full", deadline=None, max_examples=500)
settings.load_profile("short")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where two processes share the tests (`make test`), one of them has the session's one Ray cluster and begins with
    all tests of it; each other file is run whole by one process, so that its fixtures are made once."""
    if not getattr(config.option, "loadgroup", False):
        return
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if needs_ray(item) else item.path.stem))
    items.sort(key=lambda item: not needs_ray(item))


def needs_ray(item: pytest.Item) -> bool:
    """Whether a test, or a fixture that it uses, asks for the session's cluster."""
    return "ray_cluster" in getattr(item, "fixturenames", ())


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

"""Settings that must stand before JAX is imported: tests run on the CPU, which shows itself as four devices."""

import os
import shutil
import subprocess

import pytest
from quick import FLAGS

os.environ.setdefault("JAX_PLATFORMS", "cpu")
for flag in ("--xla_force_host_platform_device_count=4", *FLAGS):
    if flag.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()

# what test_golden.py gathers from these modules should explain its failures, as test modules do
pytest.register_assert_rewrite("golden_functions_checks", "golden_network_checks", "golden_steps_checks")


def pytest_configure(config):
    """Each program is compiled once, whichever test, process or command wants it, and not again the next time."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("compiled")))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A small run that nothing happened to: its workdir and results."""
    import survival

    workdir = tmp_path_factory.mktemp("whole")
    return workdir, survival.run(workdir, survival.config_of())


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 32 MB that can really be full; for root on Linux."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=32m", "tmpfs", disk], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def pytest_collection_modifyitems(items):
    """The files that take longest first, so that no process is left with one of them at the end."""
    longest = ("test_end_to_end", "test_golden", "test_damage", "test_experiment", "test_hosts", "test_taken_networks")
    items.sort(key=lambda item: item.path.stem not in longest)

"""Settings that must stand before JAX is imported: tests run on the CPU, which shows itself as four devices."""

import gc
import os
import pathlib
import shutil
import subprocess

import pytest
from quick import FLAGS
from xdist.scheduler import LoadScopeScheduling

os.environ.setdefault("JAX_PLATFORMS", "cpu")
for flag in ("--xla_force_host_platform_device_count=4", *FLAGS):
    if flag.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()

# what test_golden.py gathers from these modules should explain its failures, as test modules do
pytest.register_assert_rewrite("golden_functions_checks", "golden_network_checks", "golden_steps_checks",
                              "comparators", "golden_cpsl_checks", "golden_dacs_checks", "golden_hrda_checks",
                              "golden_adversarial_checks")


gc.set_threshold(20_000, 20, 20)  # traces make millions of objects, of which little is garbage


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


# Files that want the same programs: one process runs them, and compiles once. Longest first, so that no process is left
# with one of them at the end; every other file is a group of its own.
GROUPS = {
    "experiments": (
        "test_experiment", "test_taken_networks", "test_few_labels", "test_several_data_sets", "test_studies",
        "test_pretrain", "test_extending", "test_damage", "test_damage_campaign", "test_resume", "test_bad_numbers",
        "test_interruption", "test_device_counts",
    ),
    "steps": ("test_stages", "test_statistics", "test_steps", "test_denoise"),
    "commands": ("test_end_to_end", "test_hosts", "test_evaluate_command", "test_preparing_again", "test_settings"),
    "golden": ("test_golden", "test_weight_networks"),
    "inference": ("test_predict", "test_export", "test_loading", "test_video", "test_networks"),
}  # fmt: skip
GROUP_OF = {file: group for group, files in GROUPS.items() for file in files}


def pytest_collection_modifyitems(items):
    order = list(GROUP_OF)
    items.sort(key=lambda item: order.index(item.path.stem) if item.path.stem in GROUP_OF else len(order))


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # what was imported is not looked through for garbage again


class ByGroup(LoadScopeScheduling):
    """Sends the tests of a group to one process; xdist's own marks of groups are lost on pytest since 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        file = pathlib.PurePath(nodeid.partition("::")[0]).stem
        return GROUP_OF.get(file, file)


def pytest_xdist_make_scheduler(config, log):
    return ByGroup(config, log)

"""Agreement with other methods' released code, by golden numbers that it computed: see `support/comparators.py`.

Another set of the same kind: `GOLDEN_COMPARATORS_DIR=<folder of .npz files> pytest` with this file's name.
"""

import functools

import golden_adversarial_checks
import golden_bdl_checks
import golden_cag_checks
import golden_cpsl_checks
import golden_dacs_checks
import golden_hrda_checks
import golden_self_training_checks
import pytest
from comparators import golden
from golden_adversarial_checks import *  # noqa: F403
from golden_bdl_checks import *  # noqa: F403
from golden_cag_checks import *  # noqa: F403
from golden_cpsl_checks import *  # noqa: F403
from golden_dacs_checks import *  # noqa: F403
from golden_hrda_checks import *  # noqa: F403
from golden_self_training_checks import *  # noqa: F403

CHECKS = (
    golden_adversarial_checks, golden_bdl_checks, golden_cag_checks, golden_cpsl_checks, golden_dacs_checks,
    golden_hrda_checks, golden_self_training_checks,
)  # fmt: skip
# methods all of whose arrays are compared
COMPLETE = ("adaptseg", "advent", "clan", "fada", "segunc", "schedules", "dacs", "daformer", "mic", "hrda", "fda",
            "cpsl", "sepico", "cbst", "crst", "cag", "bdl")  # fmt: skip


def left(method: str) -> set[str]:
    """Arrays that no test has asked for yet."""
    return set(golden(method).arrays) - golden(method).compared


@functools.cache
def run_all() -> None:
    """Every check once more, where this test runs without those above."""
    for checks in CHECKS:
        for name, check in vars(checks).items():
            if name.startswith("test_"):
                for arguments in getattr(check, "cases", [()]):
                    check(*arguments)


@pytest.mark.parametrize("method", COMPLETE)
def test_every_golden_array_of_the_method_is_compared(method):
    if left(method):
        run_all()
    assert left(method) == set()

"""Agreement with the authors' released implementation, by golden numbers that it computed.

Other sets of the same kind:
`GOLDEN_DIR=<folder of .npz files> GOLDEN_SALT=<salt> pytest tests/adaptation/test_golden.py`.
"""

from golden_functions_checks import *  # noqa: F403
from golden_network_checks import *  # noqa: F403
from golden_steps_checks import *  # noqa: F403

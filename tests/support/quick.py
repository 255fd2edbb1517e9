"""XLA's flags for programs that run once or twice, where compiling takes longest."""

from importlib import metadata

LEVEL = "--xla_backend_optimization_level=0"
QUICK = LEVEL  # for commands that tests start
if metadata.version("jaxlib").startswith("0.10."):  # a flag that XLA does not know ends the process
    # half the time to compile; not within tests, as it rounds unlike what users get
    QUICK += " --xla_cpu_use_fusion_emitters=false"

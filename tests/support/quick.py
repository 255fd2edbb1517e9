"""XLA's flags for programs that run once or twice, where compiling takes longest."""

from importlib import metadata

FLAGS = ["--xla_backend_optimization_level=0"]
AS_USERS = {}  # compiler options that take the others back
if metadata.version("jaxlib").startswith("0.10."):  # a flag that XLA does not know ends the process
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")  # a third of the time
    AS_USERS["xla_cpu_use_fusion_emitters"] = True
QUICK = " ".join(FLAGS)

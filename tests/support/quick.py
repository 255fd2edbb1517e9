"""XLA's flags for programs that run once or twice, where compiling takes longest."""

from importlib import metadata

FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
FLAGS.append("--xla_disable_hlo_passes=hlo-verifier")  # which finds mistakes of XLA's own: a tenth of the time
if metadata.version("jaxlib").startswith("0.10."):  # a flag that XLA does not know ends the process
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")  # a third of the time
    FLAGS.append("--xla_cpu_parallel_codegen_split_count=1")  # the tests leave no core for the parts
QUICK = " ".join(FLAGS)

#!/usr/bin/env bash
# TensorFlow, imported for its input pipelines beside JAX.
#
# Guess, before it was run: `import tensorflow` imports none of JAX, Matplotlib and scikit-learn, so what JAX reads from
# the environment may be set between the two imports.
# Seen: where they are installed it imports all three: JAX by TensorFlow Lite's converter, the others by Keras. A
# variable that JAX reads when it is imported, such as JAX_ENABLE_X64, comes too late behind `import tensorflow`, with no
# word about it.
# Versions: tensorflow-cpu 2.21.0, keras 3.15.1, jax 0.10.2, matplotlib 3.11.2, scikit-learn 1.9.1; Python 3.11.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow-cpu==2.21.0 keras==3.15.1 jax==0.10.2 matplotlib==3.11.2 scikit-learn==1.9.1
cat > "$folder/imported.py" <<'PROGRAM'
import os
import sys

early = len(sys.argv) > 1
if early:
    os.environ["JAX_ENABLE_X64"] = "1"
import tensorflow  # noqa: F401

brought = sorted({"jax", "matplotlib", "sklearn"} & set(sys.modules))
os.environ["JAX_ENABLE_X64"] = "1"
import jax.numpy as jnp

found = str(jnp.arange(3.0).dtype)
print("set before TensorFlow:" if early else "set between the imports:", found, "and TensorFlow brought", brought)
assert brought == ["jax", "matplotlib", "sklearn"], "it has changed"
assert found == ("float64" if early else "float32"), "it has changed"
PROGRAM
export TF_CPP_MIN_LOG_LEVEL=3
"$folder/venv/bin/python" "$folder/imported.py" 2>/dev/null
"$folder/venv/bin/python" "$folder/imported.py" early 2>/dev/null

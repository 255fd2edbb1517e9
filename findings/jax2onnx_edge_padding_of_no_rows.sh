#!/usr/bin/env bash
# jax2onnx 0.17.1 and jnp.pad(mode='edge') on some sides only.
#
# Guess, before it was run: padding by the outermost row becomes ONNX's Pad in mode 'edge', and a side that is padded by
# nothing is a 0 among its `pads`.
# Seen: JAX traces each side of such a padding as rows that are repeated and joined to the image, also where these are
# no rows at all, and the converter makes a Reshape of each. In ONNX a size of 0 stands for one that stays as it was,
# so no rows become one, and ONNX Runtime refuses to load a network that pads images at the right and at the bottom, as
# those do that want multiples of 32 pixels. With at least one row on every side of every axis it loads and agrees;
# mode 'reflect' with the same widths does, too.
# Versions: jax2onnx 0.17.1, jax 0.10.2, flax 0.12.8, onnx 1.23.2, onnxruntime 1.32.0; Python 3.11, CPU.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax2onnx==0.17.1 jax==0.10.2 flax==0.12.8 onnx==1.23.2 onnxruntime==1.32.0
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PROGRAM'
import jax
import jax.numpy as jnp
import jax2onnx
import numpy as np
import onnx
import onnxruntime

image = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
some, every = ((0, 0), (0, 2), (0, 1)), ((1, 1), (1, 2), (1, 1))
found = {}
for mode, widths in (("edge", some), ("edge", every), ("reflect", some)):

    def padded(x, mode=mode, widths=widths):
        return jnp.pad(x, widths, mode=mode)

    onnx.save(jax2onnx.to_onnx(padded, [jax.ShapeDtypeStruct(image.shape, jnp.float32)]), "pad.onnx")
    try:
        session = onnxruntime.InferenceSession("pad.onnx", providers=["CPUExecutionProvider"])
        theirs = session.run(None, {session.get_inputs()[0].name: image})[0]
        result = "the same" if np.array_equal(theirs, padded(image)) else "another array"
    except Exception as error:  # ONNX Runtime has errors of its own for each way to fail
        result = type(error).__name__
    found[mode, widths] = result
    print(f"{mode} {widths}: {result}")
assert found["edge", every] == found["reflect", some] == "the same", found
assert found["edge", some] == "Fail", "padding of some sides can be run now"
PROGRAM
echo "as written"

#!/usr/bin/env bash
# jax2onnx 0.17.1 and max pooling with explicit padding.
#
# Guess, before it was run: the padding that flax.linen.max_pool is given as pairs of numbers becomes the `pads` of
# ONNX's MaxPool, which has just such an attribute.
# Seen: padding given by name ('SAME') does; padding given as numbers is left out without a word. Of 9 x 9 positions, 3x3
# windows with stride 2 and a padding of 1 make 5 x 5 in JAX and 4 x 4 in ONNX Runtime. ResNets begin with that layer, so
# a converted one has the sizes of 'VALID' from there on.
# Versions: jax2onnx 0.17.1, jax 0.10.2, flax 0.12.8, onnx 1.23.2, onnxruntime 1.32.0; Python 3.11, CPU.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax2onnx==0.17.1 jax==0.10.2 flax==0.12.8 onnx==1.23.2 onnxruntime==1.32.0
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PROGRAM'
import flax.linen as nn
import jax
import jax.numpy as jnp
import jax2onnx
import numpy as np
import onnx
import onnxruntime

images = np.random.default_rng(0).standard_normal((1, 9, 9, 2)).astype(np.float32)
found = {}
for padding in ("SAME", ((1, 1), (1, 1))):

    def pool(x, padding=padding):
        return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=padding)

    onnx.save(jax2onnx.to_onnx(pool, [jax.ShapeDtypeStruct(images.shape, jnp.float32)]), "pool.onnx")
    session = onnxruntime.InferenceSession("pool.onnx")
    theirs = session.run(None, {session.get_inputs()[0].name: images})[0]
    ours = np.asarray(pool(images))
    found[str(padding)] = (ours.shape[1:3], theirs.shape[1:3])
    print(f"padding {padding}: JAX {ours.shape[1:3]}, ONNX Runtime {theirs.shape[1:3]}")
assert found["SAME"] == ((5, 5), (5, 5)), found
assert found["((1, 1), (1, 1))"] == ((5, 5), (4, 4)), "explicit padding is kept now"
PROGRAM
echo "as written"

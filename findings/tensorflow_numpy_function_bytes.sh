#!/usr/bin/env bash
# TensorFlow's numpy_function and strings, such as encoded images.
#
# Guess, before it was run: the function gets the same of a string tensor everywhere, an array of one object.
# Seen: within tf.data and tf.function it gets bytes; called eagerly, an ndarray without axes that holds them. So a decoder
# that was tried eagerly, on one file, fails in the pipeline, and the other way round.
# Versions: tensorflow-cpu 2.21.0; Python 3.11.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow-cpu==2.21.0
cat > "$folder/kinds.py" <<'PROGRAM'
import tensorflow as tf

seen = {}


def noting(where):
    def note(value):
        seen[where] = type(value).__name__
        return 1

    return lambda text: tf.numpy_function(note, [text], tf.int64)


noting("eager")(tf.constant(b"a file"))
tf.function(noting("tf.function"))(tf.constant(b"a file"))
list(tf.data.Dataset.from_tensors(b"a file").map(noting("tf.data")))
print(seen)
assert seen == {"eager": "ndarray", "tf.function": "bytes", "tf.data": "bytes"}, "it has changed"
PROGRAM
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/kinds.py" 2>/dev/null

#!/usr/bin/env bash
# ONNX Runtime's Einsum, which converters write for JAX's dot_general, and the order of its two operands.
#
# Guess, before it was run: Einsum moves axes where it has to and multiplies matrices then, so it takes as long as Transpose
# and MatMul written out, a fifth more at most, whichever operand comes first.
# Seen: of attention over 513 tokens, the product of weights and values takes 1.5 times as long as MatMul, and the same
# product with values first, which is how JAX's attention traces it, five to six; results are equal to rounding. So a
# transformer's ONNX file can spend most of its time in what is a small part of its arithmetic, by the order of two names.
# Why it matters here: DINOv2-S at 224 x 448 pixels took 0.70 of the time once its products were those of matrices.
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6; Python 3.11, x86-64, one thread, medians of 15 rounds in turn.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$folder/times.py" <<'PROGRAM'
import statistics
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

TOKENS, HEADS, CHANNELS = 513, 6, 64
SHAPES = {"weights": [1, HEADS, TOKENS, TOKENS], "values": [1, TOKENS, HEADS, CHANNELS]}
FORMS = {
    "MatMul": [
        helper.make_node("Transpose", ["values"], ["moved"], perm=(0, 2, 1, 3)),
        helper.make_node("MatMul", ["weights", "moved"], ["y"]),
    ],
    "Einsum, weights first": [helper.make_node("Einsum", ["weights", "values"], ["y"], equation="bhqk,bkhd->bhqd")],
    "Einsum, values first": [helper.make_node("Einsum", ["values", "weights"], ["y"], equation="bkhd,bhqk->bhqd")],
}


def session(nodes):
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in SHAPES.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, HEADS, TOKENS, CHANNELS])
    graph = helper.make_graph(nodes, "graph", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


rng = np.random.default_rng(0)
given = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
sessions = {name: session(nodes) for name, nodes in FORMS.items()}
seconds, results = {name: [] for name in FORMS}, {}
for _ in range(15):
    for name, one in sessions.items():
        started = time.process_time()
        [results[name]] = one.run(None, given)
        seconds[name].append(time.process_time() - started)
medians = {name: statistics.median(times) for name, times in seconds.items()}
for name, median in medians.items():
    np.testing.assert_allclose(results[name], results["MatMul"], rtol=1e-3, atol=1e-3)
    print(f"{name}: {1e3 * median:.2f} ms, {median / medians['MatMul']:.1f} of MatMul's time")
if medians["Einsum, values first"] < 2 * medians["Einsum, weights first"]:
    raise SystemExit("changed: the order of operands does not double the time")
print("as described")
PROGRAM
"$folder/venv/bin/python" "$folder/times.py"

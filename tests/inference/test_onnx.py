"""Programs and graphs for ONNX Runtime, before and behind their conversion."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import IMAGES
from tiny import tiny_config, tiny_model, tiny_variables

from proda_jax.inference import onnx_graph, onnx_program
from proda_jax.inference.export import labels


def test_the_program_for_onnx_has_no_empty_arrays_to_join():
    """Of which ONNX, that takes a size of 0 for one that stays, makes others."""
    def padded(images):
        return jnp.concatenate([images[:, :0], images.astype(np.float32)[:, ::-1], images[:, :, :, :][:, :0]], 1)

    like = jax.ShapeDtypeStruct((1, 4, 6, 3), np.uint8)
    program = onnx_program.plain(padded, like)
    named = [equation.primitive.name for equation in jax.make_jaxpr(program)(IMAGES[:1, :4, :6]).eqns]
    assert "concatenate" not in named
    np.testing.assert_array_equal(program(IMAGES[:1, :4, :6]), padded(IMAGES[:1, :4, :6]))


def test_the_program_for_onnx_gives_the_same_bits():
    """Without the converter: of max pooling, stacks and code that depends on the platform, the same in other words."""
    model = tiny_model(tiny_config())
    variables = tiny_variables(model, 0)
    image = IMAGES[:1]
    like = jax.ShapeDtypeStruct(image.shape, np.uint8)
    program = onnx_program.plain(functools.partial(labels, model, variables), like)
    named = {equation.primitive.name for equation in jax.make_jaxpr(program)(image).eqns}
    assert not named & {"reduce_window_max", "stack", "platform_index", "cond", "custom_vjp_call", "jit"}
    np.testing.assert_array_equal(jax.jit(program)(image), jax.jit(functools.partial(labels, model))(variables, image))


@pytest.mark.parametrize(("left", "right", "dimensions", "written"), [
    ((2, 3, 4, 5), (5, 6), (((3,), (0,)), ((), ())), "nhwc,cd->nhwd"),
    ((2, 3, 4, 5), (7, 3), (((1,), (1,)), ((), ())), "nhwc,gh->nwcg"),
    ((2, 7, 3, 5), (2, 6, 3, 5), (((3,), (3,)), ((0, 2), (0, 2))), "bqhd,bkhd->bhqk"),
    ((2, 7, 3, 5), (2, 3, 6, 7), (((1,), (3,)), ((0, 2), (0, 1))), "bkhd,bhqk->bhdq"),
    ((1, 2, 3, 4, 5, 6), (3, 5, 6, 7), (((5, 4, 2), (2, 1, 0)), ((), ())), "nhiwjc,ijcd->nhwd"),
])  # fmt: skip
def test_products_for_onnx_are_convolutions_and_products_of_matrices(left, right, dimensions, written):
    rng = np.random.default_rng(0)
    left, right = (rng.integers(-9, 10, shape).astype(np.float32) for shape in (left, right))
    program = onnx_program.plain(lambda x: jax.lax.dot_general(x, right, dimensions), left)
    named = {equation.primitive.name for equation in jax.make_jaxpr(program)(left).eqns}
    assert named <= {"conv_general_dilated", "dot_general", "transpose", "reshape"}
    np.testing.assert_array_equal(program(left), np.einsum(written, left, right))


def test_what_follows_from_weights_alone_is_a_constant_of_the_program_unless_it_is_large():
    weights = jnp.arange(6.0)

    def scaled(x):
        return x * (weights / jnp.sqrt(weights + 1)) + weights.sum()

    def large(x):
        return x.sum() + jnp.broadcast_to(weights[1], (100, 100))

    x = np.ones((2, 6), np.float32)
    traced = [jax.make_jaxpr(onnx_program.plain(function, x))(x) for function in (scaled, large)]
    assert [equation.primitive.name for equation in traced[0].eqns] == ["mul", "add"]
    assert all(np.size(value) <= 6 for program in traced for value in program.consts)


def runs_as(model, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def graph_of(nodes: list, constants: dict) -> tuple:
    """A model from 'x' to 'y', both [1, 4, 5, 2], of (operation, inputs, output, attributes); and a copy of it."""
    onnx = pytest.importorskip("onnx")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4, 5, 2]) for name in "xy"]
    held = [onnx.numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()]
    made = [onnx.helper.make_node(kind, inputs.split(), [output], **rest) for kind, inputs, output, rest in nodes]
    graph = onnx.helper.make_graph(made, "graph", ends[:1], ends[1:], held)
    opset = [onnx.helper.make_opsetid("", 20)]
    return tuple(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9) for _ in range(2))


CONVOLUTION = [
    ("Transpose", "x", "a", {"perm": [0, 3, 1, 2]}), ("Conv", "a kernel", "b", {}),
    ("Transpose", "b", "c", {"perm": [0, 2, 3, 1]}),
]  # fmt: skip
KERNEL = {"kernel": np.linspace(-3, 3, 4).reshape(2, 2, 1, 1), "unread": [1.0]}


@pytest.mark.parametrize(("nodes", "constants", "kinds"), [
    ([*CONVOLUTION, ("Add", "c bias", "d", {}), ("Max", "d zero", "e", {}), ("Min", "six e", "y", {})],
     {"bias": [[[[0.5, -1.0]]]], "zero": 0.0, "six": 6.0}, ["Transpose", "Conv", "Transpose", "Identity", "Clip"]),
    ([*CONVOLUTION, ("Add", "c bias", "d", {}), ("Max", "zero d", "y", {})],
     {"bias": [[[[0.5, -1.0]]]], "zero": 0.0}, ["Transpose", "Conv", "Transpose", "Identity", "Relu"]),
    ([*CONVOLUTION, ("Add", "c bias", "d", {}), ("Mul", "c d", "y", {})],  # what has no bias is wanted, too
     {"bias": [[[[0.5, -1.0]]]]}, ["Transpose", "Conv", "Transpose", "Add", "Mul"]),
    ([*CONVOLUTION, ("Add", "c bias", "y", {})],  # of each column
     {"bias": np.arange(5.0).reshape(1, 1, 5, 1)}, ["Transpose", "Conv", "Transpose", "Add"]),
    ([*CONVOLUTION[:2], ("Transpose", "b", "c", {"perm": [0, 2, 3, 1]}), ("Add", "c x", "y", {})],
     {}, ["Transpose", "Conv", "Transpose", "Add"]),
    ([("Max", "x one", "a", {}), ("Min", "a six", "y", {})], {"one": 1.0, "six": 6.0}, ["Max", "Min"]),
    ([("Max", "x zero", "a", {}), ("Min", "a six", "b", {}), ("Add", "a b", "y", {})],  # both are read
     {"zero": 0.0, "six": 6.0}, ["Relu", "Min", "Add"]),
])  # fmt: skip
def test_biases_and_rectifiers_of_an_onnx_graph_are_fused_where_nothing_else_reads_them(nodes, constants, kinds):
    pytest.importorskip("onnxruntime")
    model, fused = graph_of(nodes, KERNEL | constants)
    x = np.linspace(-9, 9, 40, dtype=np.float32).reshape(1, 4, 5, 2)
    onnx_graph.Graph(fused.graph).fuse()
    assert [node.op_type for node in fused.graph.node] == kinds
    read = {name for node in fused.graph.node for name in node.input}
    assert {array.name for array in fused.graph.initializer} <= read
    np.testing.assert_allclose(runs_as(fused, x), runs_as(model, x), rtol=1e-6, atol=1e-6)

"""What every network promises: each backbone and each head of the tables has all of these tests, some in all pairs."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import (
    AGAIN,
    COMPILED,
    LABELLING_HEADS,
    NETWORKS,
    assert_same,
    floats,
    network,
    network_config,
    shapes_of,
)
from jax.sharding import PartitionSpec as P
from tiny import CLASSES, CROP, IMAGE, blocks, tiny_model, tiny_variables

from proda_jax.inference.export import STABLEHLO, export
from proda_jax.inference.loading import load
from proda_jax.models import weights
from proda_jax.models.heads import HEADS
from proda_jax.models.weights.torch_names import from_torch, to_torch
from proda_jax.run import evaluate
from proda_jax.run.card import Card
from proda_jax.system import devices
from proda_jax.system.checkpoints import Checkpoints


def labels(head: str) -> bool:
    return head.partition("+")[0] in LABELLING_HEADS


def lower_size(model, size: tuple[int, int]) -> tuple[int, ...]:
    """Height and width of what a head on the last map but one says."""
    finer = 4 if model.head == "light" else 1
    return tuple(finer * n for n in model.backbone.level_sizes(size)[-2])


ODD_SIZES = [(33, 47), (63, 65)]
slow = pytest.mark.slow


def case(*values, ordinary: bool):
    return pytest.param(*values, marks=[] if ordinary else slow)


each_network = pytest.mark.parametrize(("backbone", "head"), COMPILED)
# a convolutional network, a transformer and a second head: what a device, a type or a file could make of others is slow
each_compiled_again = pytest.mark.parametrize(("backbone", "head"), [case(*n, ordinary=n in AGAIN) for n in COMPILED])
each_pair_and_type = pytest.mark.parametrize(("backbone", "head", "dtype"), [
    case(*n, dtype, ordinary=dtype == "float32" or n in COMPILED) for n in NETWORKS for dtype in ("float32", "bfloat16")
])  # fmt: skip
each_pair_in_odd_sizes = pytest.mark.parametrize(
    ("backbone", "head"), [case(*n, ordinary=n in COMPILED) for n in NETWORKS]
)
each_labelling_pair = pytest.mark.parametrize(("backbone", "head", "extra_norm"), [
    case(*n, extra, ordinary=not extra or n in COMPILED) for n in NETWORKS if labels(n[1]) for extra in (False, True)
])  # fmt: skip


@each_pair_and_type
def test_features_and_scores_have_the_shapes_and_types_that_the_rest_relies_on(backbone, head, dtype):
    assert_shapes_and_types(network(backbone, head, dtype), CROP)


@pytest.mark.parametrize("size", ODD_SIZES)
@each_pair_in_odd_sizes
def test_images_of_odd_sizes_have_the_shapes_that_the_rest_relies_on(backbone, head, size):
    assert_shapes_and_types(network(backbone, head), size)


def assert_shapes_and_types(model, size: tuple[int, int]) -> None:

    def apply(images):
        return model.init_with_output(jax.random.key(0), images, train=False)

    output, variables = jax.eval_shape(apply, jax.ShapeDtypeStruct((2, *size, 3), jnp.float32))
    expected = [(2, *shape) for shape in shapes_of(model, size)]
    assert [output.features.shape, output.logits.shape] == expected
    heads = [expected[1]]
    if model.auxiliary_head != "none":
        lower = model.auxiliary_head == "lower"
        heads.append((2, *lower_size(model, size), model.classes) if lower else expected[1])
    assert [scores.shape for scores in output.heads] == heads
    assert floats((output, variables)) == {np.dtype("float32")}


def passes(model, dtype: str, count: int = 1) -> dict:
    """Output of training mode on four images, gradient of a sum of it, and running statistics; on some devices."""
    images = np.abs(np.random.default_rng(0).standard_normal((4, *CROP, 3))).astype(dtype)
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), tiny_variables(network_like(model), 0))

    def gradient(variables, images, slots):
        def loss(params):
            output, updates = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            weights = 1 + jnp.sin(slots.astype(images.dtype))[:, None, None, None]
            seen = (output.features, output.logits, *output.heads[1:])
            return sum(jnp.sum(jnp.sin(x) * weights) for x in seen), (output, updates)

        found, (output, updates) = jax.grad(loss, has_aux=True)(variables["params"])
        return output, jax.lax.psum(found, devices.AXIS), updates["batch_stats"]

    mesh = devices.make_mesh(count)
    mapped = jax.jit(jax.shard_map(
        gradient, mesh=mesh, in_specs=(P(), P(devices.AXIS), P(devices.AXIS)), out_specs=(P(devices.AXIS), P(), P()),
        check_vma=False,
    ))  # fmt: skip
    output, found, stats = jax.device_get(mapped(variables, images, np.arange(4)))
    return {"output": output, "gradient": found, "batch_stats": stats}


def network_like(model):
    """The same in float32 and on one device, whose variables it takes."""
    return model.clone(dtype=jnp.dtype("float32"), axis_name=None)


@functools.cache
def exact(backbone: str, head: str) -> dict:
    with jax.enable_x64(True):
        return passes(network(backbone, head, "float64", devices.AXIS), "float64")


@each_network
def test_gradients_are_finite_and_reach_every_kernel(backbone, head):
    found = exact(backbone, head)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    for path, leaf in jax.tree.leaves_with_path(found["gradient"]):
        assert np.any(np.abs(leaf) > 1e-6) or path[-1].key == "bias", jax.tree_util.keystr(path)


@each_network
def test_the_last_layer_alone_scores_features_as_the_network_does(backbone, head):
    model, output = network(backbone, head), exact(backbone, head)["output"]
    if labels(head):
        params = tiny_variables(network_like(model), 0)["params"]["head"]
        scores = HEADS[model.head].score(model, params, jnp.asarray(output.features, jnp.float32))
        np.testing.assert_allclose(scores, output.heads[0], rtol=1e-4, atol=1e-4)


@each_compiled_again
def test_two_devices_compute_like_one(backbone, head):
    with jax.enable_x64(True):
        found = passes(network(backbone, head, "float64", devices.AXIS), "float64", count=2)
    assert_same(found, exact(backbone, head), 1e-6, floor=1e-6)  # a bias before a normalisation has no gradient


@each_compiled_again
def test_bfloat16_is_roughly_the_same_and_keeps_parameters_statistics_and_outputs_in_float32(backbone, head):
    found, wanted = passes(network(backbone, head, "bfloat16", devices.AXIS), "float32"), exact(backbone, head)
    assert floats(found) == {np.dtype("float32")}
    for part in ("features", "logits"):
        actual, expected = (getattr(tree["output"], part) for tree in (found, wanted))
        assert 1e-5 < np.abs(actual - expected).mean() / np.abs(expected).mean() < 0.1, part  # it does compute in it
    assert_same(found["batch_stats"], wanted["batch_stats"], 0.05)


@each_labelling_pair
def test_a_network_goes_to_the_names_of_files_and_back_bit_by_bit(backbone, head, extra_norm, tmp_path):
    variables = tiny_variables(tiny_model(network_config(backbone, head), extra_norm=extra_norm), 0)
    state = to_torch(variables)
    assert len(state) == len(jax.tree.leaves(variables)) and ("bn_pretrain.running_var" in state) == extra_norm
    jax.tree.map(np.testing.assert_array_equal, from_torch(state, variables), variables)
    weights.save(weights.Weights(state), tmp_path / "network.npz")
    read = weights.load(tmp_path / "network.npz")
    jax.tree.map(np.testing.assert_array_equal, from_torch(read.arrays, variables), variables)


@each_compiled_again
def test_a_checkpoint_is_opened_and_exported_and_says_what_the_network_says(backbone, head, tmp_path):
    config, model = network_config(backbone, head), network(backbone, head)
    variables, images = tiny_variables(model, 0), blocks(3, 7)[0]
    card = Card.of(config, "source", extra_norm=False).as_json()
    with contextlib.closing(Checkpoints(tmp_path / "checkpoints")) as checkpoints:
        checkpoints.save_network(jax.tree.map(jnp.asarray, variables), card=card)
    if not labels(head):
        with pytest.raises(ValueError, match="labels nothing"):
            load(tmp_path)
        return
    opened = load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(opened.network[1]), variables)
    expected = np.asarray(jax.jit(lambda v, x: evaluate.predict(model, v, x))(variables, images))
    assert expected.shape == (3, *IMAGE) and 3 < len(np.unique(expected)) <= CLASSES
    np.testing.assert_array_equal(np.stack([opened(image) for image in images]), expected)
    export(opened, tmp_path / "exported", "stablehlo")
    exported = jax.export.deserialize((tmp_path / "exported" / STABLEHLO).read_bytes())
    np.testing.assert_array_equal(exported.call(images), expected)

"""A step at two resolutions (HRDA) descends what the paper says, written down here with a network of one resolution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import BACKBONES, LABELLING_HEADS, network_config, one_batch
from runs import IMAGES, segmenter
from tiny import tiny_config, tiny_model, tiny_stage, tiny_variables
from within import results_of

from proda_jax.adaptation.stages import build, mix
from proda_jax.configs import base
from proda_jax.data.label_spaces import IGNORE
from proda_jax.inference.export import export
from proda_jax.models import two_resolutions
from proda_jax.models.normalisation import is_batch_norm
from proda_jax.models.resizing import resize_align_corners
from proda_jax.models.scale_attention import MODULE
from proda_jax.models.weights.account import account
from proda_jax.models.weights.layout import read_off
from proda_jax.models.weights.torch_names import from_torch, to_torch
from proda_jax.run import settings

RATE, DETAIL, STRIDE = 0.125, (32, 32), 8
TERMS = {"source": 0.75, "source_detail": 0.25, "mixed": 0.75 * 0.7, "mixed_detail": 0.25 * 0.7, "distance": 0.3}
CROP = (48, 64)
ONE = {"model.detail_size": (), "model.head_channels": 256, "model.dropout": 0.1}  # resolution


def config_of(**changes):
    c = tiny_config()
    c.model.dropout, c.model.head, c.model.detail_size = 0.0, "deeplab", DETAIL
    c.model.feature_channels = base.get_config().model.feature_channels  # which this head has no use for
    c.views.crop_size = CROP
    c.mixing = tiny_stage(
        base.mix("random", 10), batch_norm="frozen", momentum=0.0, weight_decay=0.0, schedule="constant",
        label_threshold=0.3, mixed_weight=0.7, detail_weight=0.25, feature_distance_weight=0.3,
    )  # fmt: skip
    c.mixing.backbone_rate = c.mixing.head_rate = RATE
    c.stages = ("mixing",)
    c.update_from_flattened_dict(changes)
    return c


@functools.cache
def stepped() -> tuple:
    """State, teacher, inputs, the mixed images, and the state after a step."""
    c = config_of()
    setup = build.setup(c, "mixing", model=tiny_model(c), teacher=None, steps_per_epoch=10)
    variables, teacher, frozen = (jax.tree.map(jnp.float32, tiny_variables(setup.model, i)) for i in range(3))
    create = jax.jit(functools.partial(build.create_state, setup))
    state = create(jax.random.key(0), variables).replace(ema_params=teacher)
    batch = jax.tree.map(lambda x: x[:2], one_batch())

    @jax.jit
    def step(state, batch, frozen):
        with results_of(mix, "draw_inputs", "teacher_predictions", "mix") as found:
            after = mix.train_step(state, batch, frozen, setup=setup)
        return found["draw_inputs"], found["teacher_predictions"], found["mix"], *after

    return setup, state, teacher, frozen, *jax.device_get(step(state, batch, frozen))


def context_of(images):
    return (images[:, ::2, ::2] + images[:, 1::2, ::2] + images[:, ::2, 1::2] + images[:, 1::2, 1::2]) / 4


def doubled(x):
    """Twice as fine, corners staying corners: between two positions their mean."""
    for axis in (1, 2):
        first = jax.lax.slice_in_dim(x, 0, x.shape[axis] - 1, axis=axis)
        second = jax.lax.slice_in_dim(x, 1, x.shape[axis], axis=axis)
        between = jnp.stack([first, (first + second) / 2], axis + 1)
        between = between.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])
        x = jnp.concatenate([between, jax.lax.slice_in_dim(x, x.shape[axis] - 1, x.shape[axis], axis=axis)], axis)
    return x


@functools.partial(jax.jit, static_argnums=0)
def single(model, variables, images):
    """Class scores and encoded features of the network at one resolution."""
    plain = {kind: {k: v for k, v in tree.items() if k != MODULE} for kind, tree in variables.items()}
    output, kept = model.clone(detail_size=()).apply(plain, images, train=False, mutable=["intermediates"])
    return output.logits, kept["intermediates"]["encoded"][0]


def attention_of(variables, encoded):
    p, s = variables["params"][MODULE], variables["batch_stats"][MODULE]["fuse_bn"]
    x = encoded @ p["embed0"]["kernel"][0, 0] + p["embed0"]["bias"]
    x = (x @ p["fuse_conv"]["kernel"][0, 0] - s["mean"]) / jnp.sqrt(s["var"] + 1e-5)
    x = jax.nn.relu(x * p["fuse_bn"]["scale"] + p["fuse_bn"]["bias"])
    return jax.nn.sigmoid(x @ p["classifier"]["kernel"][0, 0] + p["classifier"]["bias"])


def fused_by_hand(model, variables, images, windows):
    """Class scores of context and windows, [(image or all, top, left)], which are averaged; and the windows' own."""
    context, encoded = single(model, variables, context_of(images))
    attention, fine = attention_of(variables, encoded), (CROP[0] // STRIDE + 1, CROP[1] // STRIDE + 1)
    total, count = jnp.zeros((len(images), *fine, context.shape[-1])), np.zeros((len(images), *fine, 1))
    crops = [images[image, top : top + DETAIL[0], left : left + DETAIL[1]] for image, top, left in windows]
    inside = jnp.split(single(model, variables, jnp.concatenate(crops))[0], len(windows))
    cells, mask = DETAIL[0] // STRIDE + 1, np.zeros((*attention.shape[:3], 1))
    for (image, top, left), own in zip(windows, inside, strict=True):
        a, b = top // STRIDE, left // STRIDE
        total = total.at[image, a : a + cells, b : b + cells].add(own)
        count[image, a : a + cells, b : b + cells] += 1
        mask[image, a // 2 : a // 2 + 3, b // 2 : b // 2 + 3] = 1
    attention = attention * mask
    fused = doubled(attention) * total / np.maximum(count, 1) + doubled((1 - attention) * context)
    return fused, inside, encoded


def windows_of(places) -> list:
    return [(slice(i, i + 1), int(top), int(left)) for i, (top, left) in enumerate(places)]


@functools.cache
def objective():
    """(parameters, weight of each term) -> the objective's gradient."""
    setup, state, teacher, frozen, inputs, taught, mixed, *_ = stepped()
    _, fixed = single(setup.model, frozen, context_of(inputs.source_image))

    def values(params, weights):
        variables, total = {"params": params, "batch_stats": state.batch_stats}, 0.0

        def pixel_losses(logits, label):
            log_p = jax.nn.log_softmax(resize_align_corners(logits, label.shape[1:]))
            picked = -jnp.take_along_axis(log_p, jnp.where(label == IGNORE, 0, label)[..., None], -1)[..., 0]
            return jnp.where(label == IGNORE, 0.0, picked)

        ones, n = np.ones(mixed.weight.shape, np.float32), len(mixed.weight)
        images = np.concatenate([inputs.source_image, mixed.image])
        windows = windows_of(np.concatenate([inputs.source_places, inputs.mixed_places]))
        fused, own, encoded = fused_by_hand(setup.model, variables, images, windows)
        for name, these, label, weight, places in (
            ("source", slice(0, n), inputs.source_label, ones, inputs.source_places),
            ("mixed", slice(n, None), mixed.label, mixed.weight, inputs.mixed_places),
        ):
            cut = [np.stack([x[i, t : t + DETAIL[0], j : j + DETAIL[1]] for i, (t, j) in enumerate(places)])
                   for x in (label, weight)]  # fmt: skip
            for term, logits, y, w in ((name, fused[these], label, weight),
                                       (f"{name}_detail", jnp.concatenate(own[these]), *cut)):  # fmt: skip
                divisor = np.sum(y != IGNORE) if name == "source" else y.size
                total += weights[term] * jnp.sum(w * pixel_losses(logits, y)) / divisor
            if name == "source":
                total += weights["distance"] * jnp.mean(jnp.linalg.norm(encoded[these] - fixed, axis=-1))
        return total

    return jax.jit(jax.grad(values))


def difference(left_out: str | None) -> float:
    """Of the step from the descent of the objective, as a share of it."""
    _, state, *_, after, _ = stepped()
    gradient = objective()(state.params, TERMS | {left_out or "none": 0.0} | {"none": 0.0})
    moved = jax.tree.map(lambda a, b: (np.asarray(a) - b) / RATE, state.params, after.params)
    flat = [
        np.concatenate([np.ravel(x) for path, x in jax.tree.leaves_with_path(tree) if not is_batch_norm(path[-2].key)])
        for tree in (moved, gradient)
    ]
    return np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1])


def test_a_step_descends_the_objective_of_both_resolutions():
    *_, inputs, _, _, after, metrics = stepped()
    assert len({tuple(p) for p in np.concatenate([inputs.source_places, inputs.mixed_places])}) > 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((after.params, metrics)))
    assert difference(None) < 1e-4


@pytest.mark.parametrize("term", TERMS)
def test_no_term_of_it_could_be_left_out(term):
    assert difference(term) > 0.01


def test_the_teacher_fuses_the_mean_of_overlapping_windows_with_the_context():
    setup, state, teacher, _, inputs, taught, *_ = stepped()
    windows = [(slice(None), top, left) for top in (0, 16) for left in (0, 16, 32)]

    @jax.jit
    def probabilities(variables, images):
        return jax.nn.softmax(resize_align_corners(fused_by_hand(setup.model, variables, images, windows)[0], CROP))

    p = np.asarray(probabilities(teacher, inputs.target_image))
    np.testing.assert_allclose(taught.sure, p.max(-1), atol=1e-4)
    assert np.mean(taught.label != np.where(inputs.inside, p.argmax(-1), IGNORE)) < 1e-3


@pytest.mark.parametrize(("backbone", "head", "unit"), [
    ("resnet101", "deeplab", 16), ("resnet101", "daformer", 8), ("mit_b5", "daformer", 8),
    ("dinov2_vitb14", "light", 28), ("efficientnet_lite0", "released", 32),
])  # fmt: skip
def test_grids_of_image_context_and_windows_agree_at_multiples_of_the_unit(backbone, head, unit):
    c = tiny_config()
    c.model.depths, c.model.width, c.model.backbone, c.model.head = (), 0, backbone, head
    model = tiny_model(c)
    assert model.detail_unit == unit
    cells = round(unit / model.output_stride)
    for n in range(2, 6):
        size, half = (unit * n, unit * (n + 1)), (unit * n // 2, unit * (n + 1) // 2)
        whole, coarse = np.array(model.output_size(size)), np.array(model.output_size(half))
        assert ((whole == 2 * coarse) | (whole == 2 * coarse - 1)).all() and whole[1] - whole[0] == cells


@pytest.mark.parametrize("backbone", BACKBONES.values())
@pytest.mark.parametrize("head", LABELLING_HEADS)
def test_every_network_sees_two_resolutions(backbone, head):
    model = tiny_model(network_config(backbone, head))
    side = -(-32 // model.detail_unit) * model.detail_unit
    images, places = jnp.zeros((2, 2 * side, 3 * side, 3)), jnp.zeros((2, 2), jnp.int32)

    def said(detail_size, **where):
        of = model.clone(detail_size=detail_size)
        return jax.eval_shape(lambda: of.init_with_output(jax.random.key(0), images, train=False, **where)[0])

    once = said(())
    for found in (said((side, side)), said((side, side), places=places)):
        assert (found.logits.shape, found.features.shape) == (once.logits.shape, once.features.shape)


def test_images_of_any_size_have_the_grid_that_they_have_at_one_resolution():
    setup, state, *_ = stepped()
    images = np.random.default_rng(0).random((1, 37, 71, 3)).astype(np.float32)
    shapes = [jax.eval_shape(lambda x, model=model: model.apply(state.variables, x, train=False), images).logits.shape
              for model in (setup.model, setup.model.clone(detail_size=()))]  # fmt: skip
    assert shapes[0] == shapes[1]
    assert two_resolutions.padded(images, 16).shape == (1, 48, 80, 3)
    assert two_resolutions.starts(80, 32, 16) == [0, 16, 32, 48] and two_resolutions.starts(32, 32, 16) == [0]
    assert two_resolutions.starts(112, 48, 16) == [0, 16, 32, 48, 64]


def test_its_arrays_have_names_in_files_and_what_is_exported_says_the_same(tmp_path):
    opened = segmenter(**{"model.head": "deeplab", "model.detail_size": (32, 32)})
    model, variables = opened.network
    arrays = to_torch(jax.device_get(variables))
    layout = read_off({name: array.shape for name, array in arrays.items()})
    found = account(arrays, layout.shapes(), left_over=())
    assert layout.scale_attention and not found.missing and not found.wrong_shape
    assert set(found.left_over) <= {"input.mean", "input.std"}
    jax.tree.map(np.testing.assert_array_equal, from_torch(arrays, variables), jax.device_get(variables))
    export(opened, tmp_path, "stablehlo")
    exported = jax.export.deserialize((tmp_path / "network.stablehlo").read_bytes())
    np.testing.assert_array_equal(exported.call(IMAGES), [opened(image) for image in IMAGES])
    one = segmenter(**{"model.head": "deeplab"})
    assert np.mean(one(IMAGES[0]) != opened(IMAGES[0])) > 0.01


@pytest.mark.parametrize(("changes", "said"), [
    ({"model.detail_size": (32, 40)}, r"config.model.detail_size = \(32, 40\): expected .* a multiple of 16"),
    ({"model.detail_size": (64, 32)}, r"config.views.crop_size = \(48, 64\): expected multiples of 16, and at least"),
    ({"views.crop_size": (48, 72)}, r"config.views.crop_size = \(48, 72\): expected multiples of 16"),
    ({"mixing.statistics": "recomputed"}, "config.mixing.statistics = 'recomputed': expected 'all' or 'target'"),
    ({"model.auxiliary_head": "lower"}, "config.model.auxiliary_head = 'lower': expected 'none'"),
    (ONE, "config.mixing.detail_weight = 0.25: expected 0.1, as model.detail_size"),
    ({"mixing.detail_weight": 1.5}, "config.mixing.detail_weight = 1.5: expected a share"),
])  # fmt: skip
def test_settings_that_cannot_work_or_would_be_idle_are_refused(changes, said):
    changes = {"mixing.feature_distance_weight": 0.0} | changes
    settings.check(config_of(**{"mixing.feature_distance_weight": 0.0}))
    with pytest.raises(ValueError, match=said):
        settings.check(config_of(**changes))


def test_only_stages_with_mixed_images_have_two_resolutions():
    c = config_of()
    c.source = tiny_stage(base.supervised("random", 1))
    c.stages = ("source",)
    with pytest.raises(ValueError, match=r"config.model.detail_size = \(32, 32\): expected \(\), as no stage is of"):
        settings.check(c)
    assert build.stage_network(tiny_model(c), c.source).detail_size == ()

"""What the benchmarks count: arithmetic, collectives, types; against XLA and brute force."""

import functools
import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from tiny import tiny_config, tiny_stage

from benchmarks import flops, hlo, kernels
from benchmarks.programs import Programs
from proda_jax.configs import base
from proda_jax.models.convolution import Conv
from proda_jax.system import devices


@pytest.mark.smoke("benchmarks")
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation"),
    [(9, 1, 1, 1), (9, 1, 2, 1), (10, 3, 1, 1), (10, 3, 2, 1), (11, 3, 1, 4), (5, 3, 1, 6), (18, 7, 2, 1)],
)
def test_taps_inside_the_image_are_counted_as_a_sum_of_ones_counts_them(size, kernel, stride, dilation):
    conv = Conv(1, kernel, stride, dilation)
    ones = {"params": {"kernel": jnp.ones((kernel, kernel, 1, 1))}}
    along = np.sqrt(float(conv.apply(ones, jnp.ones((1, size, size, 1))).sum()))  # rows and columns alike
    assert flops.taps_inside(size, kernel, stride, dilation) == along


@pytest.fixture
def imported():
    """Imports a benchmark, which defines flags of names that others define, too."""
    before = set(flags.FLAGS)
    yield lambda name: importlib.import_module(f"benchmarks.{name}")
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


def tiny_programs(devices_used: int = 1, **settings) -> Programs:
    config = tiny_config()
    config.stages = ("source", "warmup", "stage1", "stage2")
    config.source = tiny_stage(base.supervised("random", 10))
    config.warmup = tiny_stage(base.warmup("source", 10))
    config.stage1 = tiny_stage(base.denoise("warmup", 10))
    config.stage2 = tiny_stage(base.distill("stage1", "stage1", 10))
    config.update_from_flattened_dict(settings)
    return Programs(config, devices.make_mesh(devices_used))


def test_a_pass_has_the_arithmetic_that_xla_counts():
    """XLA adds what is not convolution: little for a network of this width, next to nothing for ResNet-101."""
    programs = tiny_programs(**{"model.width": 64})
    model = programs.model().clone(axis_name=None)
    shapes = jax.eval_shape(lambda: programs.variables(model, jax.random.key(0)))
    image = jax.ShapeDtypeStruct((1, 32, 64, 3), jnp.float32)
    compiled = jax.jit(lambda v, x: model.apply(v, x, train=False).logits).lower(shapes, image).compile()
    least, _ = flops.Minimum(programs.config, programs).forward((32, 64))
    assert 1.0 <= compiled.cost_analysis()["flops"] / least < 1.05


@pytest.mark.parametrize("backbone, counts", [("resnet50", True), ("efficientnet_lite0", True), ("mit_b0", False)])
def test_the_least_is_said_of_networks_of_convolutions_alone(backbone, counts):
    programs = tiny_programs(**{"model.backbone": backbone, "model.depths": (), "model.width": 0})
    least = flops.Minimum(programs.config, programs).of("source")
    assert least > 0 if counts else least is None


def test_a_steps_program_takes_what_it_says_and_gives_the_state_that_it_takes():
    program = tiny_programs().step("stage2")
    given = program.abstract()
    state, metrics = jax.eval_shape(program.function, *given)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), given[0])
    assert "distillation" in metrics


def test_matrix_products_of_images_in_a_bfloat16_network_are_of_bfloat16():
    """1x1 convolutions are such products; float32 are those of channels alone, by which statistics are computed."""
    programs = tiny_programs(**{"model.dtype": "bfloat16"})
    model = programs.model().clone(axis_name=None)

    def loss(params, stats, image):
        output, _ = model.apply({"params": params, "batch_stats": stats}, image, train=True, mutable=["batch_stats"])
        return output.logits.sum() + output.features.sum()

    shapes = jax.eval_shape(lambda: programs.variables(model, jax.random.key(0)))
    image = jax.ShapeDtypeStruct((1, 32, 64, 3), jnp.float32)
    text = jax.jit(jax.grad(loss)).lower(shapes["params"], shapes["batch_stats"], image).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    operands = [line.split(" : ")[-1].split(" -> ")[0] for line in products]
    assert sum("bf16" in kinds for kinds in operands) > 10
    assert not [kinds for kinds in operands if re.search(r"(\d+x){3,}f32", kinds)]


def test_collectives_are_counted_with_their_bytes():
    mesh = devices.make_mesh(2)
    step = devices.map_step(lambda x, y: jax.lax.psum((x.sum(0), y.sum(0)), devices.AXIS), mesh, "bb", "r")
    arguments = [jax.ShapeDtypeStruct((4, n), jnp.float32) for n in (10, 20)]
    found = hlo.collectives(step.lower(*arguments).compile().as_text())
    assert set(found) == {"all-reduce"} and found["all-reduce"]["bytes"] == 4 * 30


def test_a_gpus_traffic_is_counted_with_its_loops():
    text = """HloModule jit_step

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %m = f32[8]{0} multiply(%p, %p)
}

%body (t: (s32[], f32[8])) -> (s32[], f32[8]) {
  %t = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%t), index=1
  %f.1 = ((f32[8]{0}, f32[8]{0}), bf16[8]{0}) fusion(%x, %x), kind=kLoop, calls=%fused
  ROOT %r = (s32[], f32[8]{0}) tuple(%x, %x)
}

ENTRY %main (a: bf16[4,8], b: bf16[8,2]) -> bf16[4,2] {
  %a = bf16[4,8]{1,0} parameter(0)
  %b = bf16[8,2]{1,0} parameter(1)
  %w = (s32[], f32[8]{0}) while(%a), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %g = (bf16[4,2]{1,0}, s8[100]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul"
}
"""
    found = hlo.traffic(text)
    assert found["products"] == {"count": 1, "bytes": 64 + 32 + 16 + 100}
    assert found["others"] == {"count": 3, "bytes": 3 * (32 + 32 + 32 + 16)}


def test_a_network_that_recomputes_its_blocks_has_the_same_gradient():
    """That it takes less memory only accelerators show: on a CPU, XLA undoes it."""
    gradients, convolutions = [], []
    for recompute in (False, True):
        programs = tiny_programs(**{"model.recompute": recompute, "model.depths": (2, 1)})
        model = programs.model().clone(axis_name=None)

        def loss(params, stats, image, model=model):
            variables = {"params": params, "batch_stats": stats}
            output, updates = model.apply(variables, image, train=True, mutable=["batch_stats"])
            return (output.logits**2).mean(), updates

        variables = jax.jit(functools.partial(programs.variables, model))(jax.random.key(0))
        image = jax.random.uniform(jax.random.key(0), (4, 32, 64, 3))
        lowered = jax.jit(jax.grad(loss, has_aux=True)).lower(variables["params"], variables["batch_stats"], image)
        gradients.append(lowered.compile()(variables["params"], variables["batch_stats"], image))
        convolutions.append(hlo.convolution_types(lowered.as_text())["f32"])
    assert convolutions[1] == convolutions[0] + 3  # the 3x3 of each block once more
    for one, other in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.slow  # stage 1 is compared with the released step by golden numbers
def test_the_peers_step_is_stage_1(imported):
    """What PyTorch is timed on is what is trained here: each loss agrees (a step of the recipe, drawn views)."""
    peer_pytorch = imported("peer_pytorch")
    config = tiny_programs().config
    config.views.crop_size, config.views.scale = (32, 64), (1.0, 1.25)
    task = peer_pytorch.task_of(config)
    found = peer_pytorch.first_losses(peer_pytorch.Ours(task, "float32", exact=True), task)
    assert set(found) == {"source_ce", "target_fit", "regulariser", "consistency"}
    for name, (ours, theirs) in found.items():
        assert theirs > 0
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("size", [(64, 96), (50, 83)])
def test_the_peers_lite_network_is_the_demos(size, imported):
    import torch

    from benchmarks.torch_network import network_of
    from proda_jax.configs import demo

    config = demo.get_config()
    config.model.depths, config.model.width = (1, 2, 1, 1, 1, 2), 32
    programs = Programs(config, devices.make_mesh(1))
    variables = imported("peer_predict").live(programs.shapes, np.random.default_rng(0))
    images = np.random.default_rng(1).random((2, *size, 3), np.float32)
    model = programs.model().clone(axis_name=None)
    ours = jax.jit(functools.partial(model.apply, train=False))(variables, images)
    network, mean, std = network_of(model, variables)
    with torch.no_grad():
        features = network.eval().features((torch.tensor(images).permute(0, 3, 1, 2) - mean) / std)
        theirs = (features, network.classify(features))
    for actual, expected in zip((ours.features, ours.logits), theirs, strict=True):
        expected = expected.permute(0, 2, 3, 1).numpy()
        assert expected.std() > 0.05
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_kernels_are_told_apart_by_their_names():
    names = {  # as a trace of stage 1 on an H200 has them
        "sm90_xmma_wgrad_indexed_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc": "gradients of kernels",
        "sm80_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc": "convolutions, kernels for Ampere",
        "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc": "convolutions",
        "sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize128x128x8": "float32 products",
        "nvjet_sm90_tst_128x224_64x4_2x1_v_bz_coopA_TNT": "1x1 convolutions and products",
        "input_reduce_fusion_1052": "sums over an image (normalisation)",
        "loop_transpose_fusion_3": "transposes and copies",
        "loop_maximum_fusion_151": "values one by one (normalisation, rectifiers)",
    }
    runs = [(name, 2.0) for name in names] + [("loop_maximum_fusion_3", 1.0)]
    table = kernels.by_kind(runs, calls=2)
    assert table == {kind: 1.0 for kind in names.values()} | {names["loop_maximum_fusion_151"]: 1.5}
    assert next(iter(table)) == names["loop_maximum_fusion_151"]


def test_operations_of_a_cpu_are_told_apart_by_what_they_come_from(tmp_path):
    def loss(image, kernel, matrix):
        y = jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.square(jnp.einsum("bhwc,cd->bhwd", y, matrix)).sum()

    shapes = ((2, 64, 64, 32), (3, 3, 32, 32), (32, 32))
    arguments = [jax.random.normal(jax.random.key(0), shape) for shape in shapes]
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(*arguments).compile()
    (tmp_path / kernels.PROGRAM).write_text(compiled.as_text())
    with jax.profiler.trace(tmp_path):
        jax.block_until_ready(compiled(*arguments))
    table = kernels.by_kind(kernels.measured(tmp_path), calls=1)
    shown = {kind.split(" (")[0] for kind in table}
    assert {"convolutions, backward", "convolutions, forward", "matrix products"} <= shown
    assert all(milliseconds > 0 for milliseconds in table.values())


def test_a_trace_that_is_missing_or_empty_is_one_message(tmp_path):
    with pytest.raises(ValueError, match="has no trace"):
        kernels.measured(tmp_path)
    with jax.profiler.trace(tmp_path):
        pass
    with pytest.raises(ValueError, match="neither kernels of a GPU nor operations of a CPU"):
        kernels.measured(tmp_path)


def test_ways_to_compute_a_layer_can_be_traced_and_agree_in_shape(imported):
    config = tiny_config()
    config.model.head_channels = 8
    for layer, ways in imported("layers").choices(config).items():
        results = set()
        for function, shapes in ways.values():
            found = jax.eval_shape(function, *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
            results.add((found.shape, found.dtype))
        assert len(ways) > 1 and len(results) == 1, layer


@pytest.mark.parametrize("config, last", [("configs/demo.py:scratch", "stage3"), ("configs/camvid.py", "oracle")])
def test_a_second_start_is_of_all_stages_of_a_shipped_configuration(config, last, imported):
    assert imported("startup").stages(config)[-1] == last

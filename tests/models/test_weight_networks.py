"""Networks that others trained give the same outputs here: plain DeepLabv2, SimCLRv2, and the golden network."""

import functools
import itertools
import subprocess

import command
import golden_inputs
import jax
import numpy as np
import pytest
import torch
import weight_fixtures as fixtures
from golden_network import assert_close, to_nchw, to_nhwc
from weight_fixtures import CLASSES, IMAGE, assert_equal, logits, save_torch, shapes_of, small_model

from proda_jax.data_prep.convert_weights import convert
from proda_jax.models import weights
from proda_jax.models.backbones import BACKBONES
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.models.weights.torch_names import from_torch, to_torch

# Plain DeepLabv2

RESNET101 = BACKBONES["resnet101"].depths


PLAIN = list(itertools.product(("", "Scale.", "module."), (None, "lower", "parallel"), (2, 4)))
# of which these hold each prefix and each second head twice, and each second head with each number of branches
FEWER = [("", None, 4), ("Scale.", None, 2), ("module.", "lower", 2), ("", "lower", 4), ("Scale.", "parallel", 4),
         ("module.", "parallel", 2)]  # fmt: skip


@pytest.mark.parametrize(("prefix", "auxiliary", "branches"), [
    pytest.param(*row, marks=[] if row in FEWER else pytest.mark.slow) for row in PLAIN
])  # fmt: skip
def test_a_plain_network_scores_rgb_images_as_it_scored_bgr_minus_mean(prefix, auxiliary, branches, tmp_path):
    theirs = fixtures.network(head="deeplab", auxiliary=auxiliary)
    state = {prefix + name: tensor for name, tensor in reversed(theirs.state_dict().items())}  # in whichever order
    read, account = weights.read(save_torch(state, tmp_path / "plain.pth"))
    account.check("plain.pth")
    assert (read.head, read.classes, read.layout.dilated_branches) == ("deeplab", CLASSES, 4)
    assert read.layout.auxiliary_head == (auxiliary or "none")
    assert all(name.endswith("num_batches_tracked") for name in account.left_over)
    dilations = (6, 12, 18, 24)[:branches]
    image = fixtures.bgr_minus_mean(IMAGE)
    with torch.no_grad():
        expected = [theirs(image, branches=branches).numpy()]
        if auxiliary:
            groups = [theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4][: 3 if auxiliary == "lower" else 4]
            expected.append(theirs.layer5(torch.nn.Sequential(*groups)(theirs.stem(image)), branches=branches).numpy())
    alone = small_model(head="deeplab", dilations=dilations)  # without the second head
    assert_close({"": logits(read, alone)}, {"": expected[0]}, 1e-4)
    if auxiliary:
        both = small_model(head="deeplab", dilations=dilations, auxiliary_head=auxiliary, auxiliary_weight=0.5)
        said = jax.jit(lambda v: both.apply(v, IMAGE, train=False))(from_torch(read.arrays, shapes_of(both)))
        actual = {"main": said.heads[0], "auxiliary": said.heads[1], "both": said.logits}
        wanted = {"main": expected[0], "auxiliary": expected[1], "both": expected[0] + 0.5 * expected[1]}
        assert_close({name: to_nchw(array) for name, array in actual.items()}, wanted, 1e-4)


def test_plain_heads_go_to_their_own_names_and_back():
    arrays = fixtures.numbers(fixtures.network(head="deeplab"))
    model = small_model(head="deeplab")
    variables = from_torch(arrays, shapes_of(model))
    assert variables["params"]["head"]["branch3_conv"]["kernel"].shape == (3, 3, 256, CLASSES)
    back = to_torch(variables)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_the_input_convention_can_be_given_for_either_kind_of_file(tmp_path):
    plain, released = fixtures.network(head="deeplab"), fixtures.network()
    image = torch.tensor(IMAGE).permute(0, 3, 1, 2)
    for theirs, images, fed in ((plain, "rgb01", image), (released, "bgr_mean", fixtures.bgr_minus_mean(IMAGE))):
        read = weights.load(save_torch(theirs.state_dict(), tmp_path / "a.pth"), images=images)
        with torch.no_grad():
            expected = theirs(fed).numpy()
        assert_close({"": logits(read, small_model(head=read.head))}, {"": expected}, 1e-4)


def test_scale_names_tell_the_input_convention_of_a_backbone_alone(tmp_path):
    state = {f"Scale.{name}": tensor for name, tensor in fixtures.network(head=None).state_dict().items()}
    read = weights.load(save_torch(state, tmp_path / "init.pth"))
    np.testing.assert_allclose(read.arrays["input.mean"] * 255, fixtures.BGR_MEAN[::-1], rtol=1e-6)


def test_one_name_with_and_without_a_prefix_is_refused(tmp_path):
    state = fixtures.network(head=None).state_dict()
    state["module.conv1.weight"] = state["conv1.weight"]
    with pytest.raises(ValueError, match="a.pth: expected one array named conv1.weight"):
        weights.load(save_torch(state, tmp_path / "a.pth"))


# SimCLRv2


@pytest.mark.parametrize("form", ["prefix", "index file", "folder"])
def test_a_tensorflow_checkpoint_gives_the_backbone_that_it_was_written_from(form, tmp_path):
    depths = (2, 1, 3, 1)
    backbone = fixtures.numbers(fixtures.network(depths=depths, head=None))
    prefix = tmp_path / "model.ckpt-250228"
    fixtures.write_simclr(str(prefix), backbone, depths, **{"head_supervised/linear_layer/dense/bias": np.zeros(9)})
    path = {"prefix": prefix, "index file": prefix.with_name(prefix.name + ".index"), "folder": tmp_path}[form]
    read, account = weights.read(path)
    account.check(path)
    assert_equal(read, weights.Weights(backbone | {"input.mean": np.zeros(3), "input.std": np.ones(3)}))
    convolutions = sum(array.ndim == 4 for array in backbone.values())
    assert sum(name.endswith("/Momentum") for name in account.left_over) == convolutions
    others = {name for name in account.left_over if not name.endswith("/Momentum")}
    assert others == {"global_step", "head_supervised/linear_layer/dense/bias"}


def test_tensorflow_variables_in_another_number_or_order_are_refused(tmp_path):
    depths = (1, 1, 1, 1)
    backbone = fixtures.numbers(fixtures.network(head=None))
    for name, change, message in (
        ("gap", {"base_model/batch_normalization_17/gamma": np.zeros(4)}, "found 17 and 18; missing: conv2d_17"),
        (
            "more",
            {
                "base_model/conv2d_17/kernel": np.zeros((1, 1, 8, 8)),
                "base_model/batch_normalization_17/gamma": np.zeros(8),
            },
            "expected 17 convolutions.*found 18",
        ),
    ):
        fixtures.write_simclr(str(tmp_path / name), backbone, depths, **change)
        with pytest.raises(ValueError, match=message):
            weights.load(tmp_path / name)
    swapped = backbone | {
        "layer2.0.downsample.0.weight": backbone["layer2.0.conv1.weight"],
        "layer2.0.conv1.weight": backbone["layer2.0.downsample.0.weight"],
    }
    fixtures.write_simclr(str(tmp_path / "swapped"), swapped, depths)
    with pytest.raises(ValueError, match="conv2d_5/kernel has shape .* expected that of layer2.0.downsample.0.weight"):
        weights.load(tmp_path / "swapped")


# The full network


@functools.cache
def golden_state() -> dict[str, np.ndarray]:
    """The full network's golden weights, by the names and shapes that PyTorch gives its tensors."""
    with torch.device("meta"):
        theirs = fixtures.Network(RESNET101, 64, 19, head_channels=256)
    return {name: golden_inputs.weight(name, tuple(t.shape)) for name, t in theirs.state_dict().items()}


@functools.cache
def golden_network():
    """The full network on the golden image, and the shapes of its variables."""
    model, (height, width) = SegmentationNetwork(19), golden_inputs.load("network")["image_hw"]
    image = to_nhwc(golden_inputs.uniform("image", (2, 3, height, width)))
    return jax.jit(lambda v: model.apply(v, image, train=False)), shapes_of(model)


def assert_golden(arrays: dict[str, np.ndarray]) -> None:
    apply, shapes = golden_network()
    output = apply(from_torch(arrays, shapes))
    actual = {"k19_clr0_eval_feat": to_nchw(output.features), "k19_clr0_eval_out": to_nchw(output.logits)}
    golden = golden_inputs.load("network")
    assert_close(actual, {name: golden[name] for name in actual}, 1e-3)


def test_the_full_network_agrees_with_the_golden_numbers_from_a_pth_a_pkl_and_its_export(tmp_path):
    state = {name: torch.from_numpy(array) for name, array in golden_state().items()}
    save_torch(state, tmp_path / "network.pth")
    inner = {"model_state": state, "objective_vectors": torch.zeros(19, 256)}
    save_torch({"ResNet101": inner, "iter": 61001, "best_iou": np.float64(0.575)}, tmp_path / "network.pkl")
    convert(tmp_path / "network.pkl", tmp_path / "export.pkl", classes=19, depths=RESNET101, width=64)
    for name in ("network.pth", "network.pkl", "export.pkl"):
        read, account = weights.read(tmp_path / name, depths=RESNET101, width=64, classes=19)
        account.check(name)
        assert {n.rsplit(".", 1)[1] for n in account.left_over} == {"num_batches_tracked"}
        if name == "network.pth":
            first = read
            assert_golden(first.arrays)
        else:  # so that its outputs are the same
            np.testing.assert_equal(read.arrays, first.arrays)


def test_the_full_backbone_agrees_with_the_golden_numbers_from_a_tensorflow_checkpoint(tmp_path):
    state = golden_state()
    backbone = {name: a for name, a in state.items() if not name.startswith("layer5.")}
    fixtures.write_simclr(str(tmp_path / "r101_1x_sk0"), backbone, RESNET101)
    read = weights.load(tmp_path / "r101_1x_sk0", depths=RESNET101, width=64)
    assert not read.has_head
    expected = backbone | {"input.mean": np.zeros(3), "input.std": np.ones(3)}  # RGB in [0, 1] (SimCLR)
    for name, array in read.arrays.items():  # so that with the head its outputs are the golden ones, as above
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


# The command


def test_the_command_converts_reports_and_refuses(tmp_path):
    theirs = fixtures.network(head="deeplab", auxiliary="lower")
    save_torch(theirs.state_dict(), tmp_path / "advent.pth")

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return command.run("-m", "data_prep.convert_weights", f"--input={tmp_path / 'advent.pth'}", *arguments)

    done = run(f"--output={tmp_path / 'ours.npz'}", "--depths=1,1,1,1", "--width=8", "--classes=5")
    assert done.returncode == 0, done.stderr
    assert "left over: *.num_batches_tracked (17)\n" in done.stdout and "a second head, 'lower'" in done.stdout
    assert_equal(weights.load(tmp_path / "ours.npz"), weights.load(tmp_path / "advent.pth"))
    refused = run(f"--output={tmp_path / 'refused.npz'}", "--depths=3,4,23,3", "--width=64")
    assert refused.returncode == 1 and "Nothing was written." in refused.stderr and "Traceback" not in refused.stderr
    assert "looks like depths (1, 1, 1, 1) and width 8" in refused.stderr
    assert not (tmp_path / "refused.npz").exists()

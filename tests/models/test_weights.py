"""Weights of every format arrive bit by bit, every array is accounted for, and nothing in a file is run."""

import functools
import os
import pickle
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import weight_fixtures as fixtures
from golden_network import assert_close
from weight_fixtures import CLASSES, IMAGE, SMALL, assert_equal, logits, save_torch, shapes_of, small_model

from proda_jax.adaptation.prototypes import Prototypes
from proda_jax.adaptation.state import TrainState
from proda_jax.data_prep.convert_weights import convert
from proda_jax.models import weights
from proda_jax.models.weights import torch_files
from proda_jax.models.weights.layout import read_off
from proda_jax.models.weights.torch_names import from_torch, to_torch
from proda_jax.system.checkpoints import Checkpoints


def small_weights(**settings) -> weights.Weights:
    """Weights of a small network with everything that weights may have."""
    generator = np.random.default_rng(1)
    arrays = fixtures.numbers(fixtures.network(extra_norm=True)) | {
        "input.mean": np.zeros(3, np.float32),
        "input.std": np.ones(3, np.float32),
    }
    prototypes = generator.standard_normal((CLASSES, 32)).astype(np.float32)
    return weights.Weights(**({"arrays": arrays, "prototypes": prototypes, "step": 7, "best_miou": 1 / 3} | settings))


# Formats


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_imagenet_backbone_arrives_bit_by_bit_whichever_way_pytorch_wrote_it(legacy, wrapped, tmp_path):
    theirs = fixtures.network(head=None)
    state = theirs.state_dict() | {"fc.weight": torch.zeros(10, 256), "fc.bias": torch.zeros(10)}
    path = save_torch({"state_dict": state} if wrapped else state, tmp_path / "resnet.pth", legacy)
    read, account = weights.read(path)
    expected = fixtures.numbers(theirs) | {"input.mean": np.zeros(3), "input.std": np.ones(3)}
    assert_equal(read, weights.Weights(expected))
    assert sorted(account.taken) == sorted(expected)
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    assert sorted(account.left_over) == sorted(["fc.bias", "fc.weight", *counters])
    assert account.missing == account.wrong_shape == ()
    assert (read.backbone.depths, read.backbone.width, read.head, read.classes) == ((1, 1, 1, 1), 8, None, None)
    assert not read.has_head and not read.extra_norm


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_a_released_checkpoint_with_a_numpy_score_is_read_under_old_and_new_module_paths(module, legacy, tmp_path):
    theirs = fixtures.network(extra_norm=True)
    discriminator = {"model_state": {"conv1.weight": torch.ones(2)}, "objective_vectors": torch.zeros(5, 32)}
    payload = fixtures.released_checkpoint(theirs, FCDiscriminator=discriminator)
    pickler = {"pickle_module": fixtures.OLD_NUMPY} if module == "numpy.core" else {}
    path = save_torch(payload, tmp_path / "warmup.pkl", legacy, **pickler)
    assert f"{module}.multiarray\nscalar".encode() in path.read_bytes()
    read, account = weights.read(path)
    assert (read.step, read.best_miou, read.prototypes) == (61001, 0.4321, None)  # all-zero prototypes are none
    for name, array in fixtures.numbers(theirs).items():
        np.testing.assert_array_equal(read.arrays[name], array, err_msg=name)
    assert (read.head, read.classes, read.layout.dilated_branches, read.extra_norm) == ("released", CLASSES, 4, True)
    others = [name for name in account.left_over if not name.endswith("num_batches_tracked")]
    assert others == ["FCDiscriminator.model_state.conv1.weight", "FCDiscriminator.objective_vectors"]


def test_released_prototypes_are_kept(tmp_path):
    vectors = torch.arange(5 * 32.0).reshape(5, 32)
    payload = fixtures.released_checkpoint(fixtures.network())
    payload["ResNet101"]["objective_vectors"] = vectors
    read = weights.load(save_torch(payload, tmp_path / "stage1.pkl"))
    np.testing.assert_array_equal(read.prototypes, vectors.numpy())


class Calls:
    """Something that makes a folder as soon as a pickle of it is run."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
def test_a_file_that_would_run_code_is_refused_and_not_run(form, tmp_path):
    payload = fixtures.released_checkpoint(fixtures.network(), extra=Calls(tmp_path / "harm"))
    path = tmp_path / "stage1.pkl"
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(payload["extra"], protocol=2))
    else:
        save_torch(payload, path, form == "legacy")
    with pytest.raises(ValueError, match=f"stage1.pkl asks for {os.mkdir.__module__}.mkdir, which may run code"):
        weights.load(path)
    assert not (tmp_path / "harm").exists()


def test_files_that_are_not_weights_are_refused_in_one_sentence(tmp_path):
    for name, payload, message in (
        ("a.pth", [1, 2], "expected a state dict, found a list"),
        ("b.pth", {"options": {"rate": 0.1}}, "expected a state dict, alone.*found entries options"),
        ("c.pth", {"weight": torch.ones(1)}, "expected arrays of a backbone.*found weight"),
        ("d.pkl", {"ResNet101": {"weights": {}}}, "expected the network's state dict under 'ResNet101'"),
    ):
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            weights.load(save_torch(payload, tmp_path / name))
    for name in ("e.npz", "f.safetensors", "g.pth"):
        (tmp_path / name).write_text("not an archive, and long enough for a header")
        with pytest.raises(ValueError, match=f"{name}.*expected"):
            weights.load(tmp_path / name)
        with pytest.raises(ValueError, match=f"absent_{name}.*there is none"):
            weights.load(tmp_path / f"absent_{name}")


def test_a_package_that_is_not_installed_is_named_where_a_file_needs_it(tmp_path, monkeypatch):
    (tmp_path / "a.ckpt.index").write_bytes(b"")
    ours, theirs = small_weights(), fixtures.network()
    save_torch(theirs.state_dict(), tmp_path / "theirs.pth")
    for module in ("torch", "tensorflow"):
        monkeypatch.setitem(sys.modules, module, None)  # so that it cannot be imported
    with pytest.raises(ValueError, match="a.ckpt.*needs tensorflow, not installed here: pip install"):
        weights.load(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="a.pkl.*needs torch, not installed here: pip install"):
        torch_files.write_released(ours, tmp_path / "a.pkl")
    weights.save(ours, tmp_path / "a.npz")
    assert_equal(weights.load(tmp_path / "a.npz"), ours)  # ours needs none of them
    weights.load(tmp_path / "theirs.pth")  # nor do PyTorch's


def test_a_plain_npz_of_pytorch_named_arrays_is_fed_rgb(tmp_path):
    arrays = fixtures.numbers(fixtures.network(head=None))
    np.savez(tmp_path / "weights.npz", **arrays)
    read = weights.load(tmp_path / "weights.npz")
    assert_equal(read, weights.Weights(arrays | {"input.mean": np.zeros(3), "input.std": np.ones(3)}))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pkl"])
@pytest.mark.parametrize("facts", [{}, {"prototypes": None, "step": None, "best_miou": None}])
def test_a_round_trip_is_bit_exact(suffix, facts, tmp_path):
    before = small_weights(**facts)
    weights.save(before, tmp_path / "ours.npz")
    convert(tmp_path / "ours.npz", tmp_path / f"theirs{suffix}", **SMALL)
    convert(tmp_path / f"theirs{suffix}", tmp_path / "again.npz", **SMALL)
    assert_equal(weights.load(tmp_path / f"theirs{suffix}"), before)
    assert_equal(weights.load(tmp_path / "again.npz"), before)
    assert not list(tmp_path.glob("*.tmp"))


def test_another_input_convention_survives_our_formats(tmp_path):
    before = small_weights()
    before.arrays |= {"input.mean": np.float32([0.4, 0.5, 0.6]), "input.std": np.float32([0.1, 0.2, 0.3])}
    for name, write in (("a.npz", weights.save), ("a.safetensors", torch_files.write_safetensors)):
        write(before, tmp_path / name)
        assert_equal(weights.load(tmp_path / name), before)
        with pytest.raises(ValueError, match="says itself how its images are fed"):
            weights.load(tmp_path / name, images="bgr_mean")


def test_safetensors_files_are_read_by_others(tmp_path):
    import safetensors.torch

    before = small_weights()
    before.arrays["conv1.weight"] = before.arrays["conv1.weight"][:, ::-1]  # not in one piece in memory
    torch_files.write_safetensors(before, tmp_path / "a.safetensors")
    theirs = safetensors.torch.load_file(tmp_path / "a.safetensors")
    for name, array in before.arrays.items():
        np.testing.assert_array_equal(theirs[name].numpy(), array, err_msg=name)


@pytest.mark.parametrize("extra_norm", [False, True])
def test_an_exported_checkpoint_loads_strictly_where_the_authors_network_has_these_names(extra_norm, tmp_path):
    source = fixtures.network(seed=1, extra_norm=extra_norm)
    exported = weights.load(save_torch(source.state_dict(), tmp_path / "source.pth"))
    exported.step, exported.best_miou = 7, 0.5
    torch_files.write_released(exported, tmp_path / "ours.pkl")
    payload = torch.load(tmp_path / "ours.pkl", weights_only=True)
    theirs = fixtures.network(seed=2, extra_norm=extra_norm)
    assert payload["ResNet101"]["model_state"].keys() == theirs.state_dict().keys()
    theirs.load_state_dict(payload["ResNet101"]["model_state"])
    image = torch.tensor(IMAGE).permute(0, 3, 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(theirs(image), source(image), rtol=0, atol=0)
        assert_close({"": logits(exported, small_model(extra_norm=extra_norm))}, {"": theirs(image).numpy()}, 1e-4)
    torch.testing.assert_close(payload["ResNet101"]["objective_vectors"], torch.zeros(CLASSES, 32))
    assert (payload["iter"], payload["best_iou"]) == (7, 0.5)


def test_what_the_authors_code_cannot_use_is_not_written_for_it(tmp_path):
    other_input, plain, incomplete = small_weights(), small_weights(), small_weights()
    other_input.arrays["input.mean"] = np.float32([0.5, 0, 0])
    plain.arrays = {name: a for name, a in plain.arrays.items() if not name.startswith("layer5.")}
    del incomplete.arrays["layer5.head.1.weight"]
    for refused, message in (
        (other_input, r"feeds RGB in \[0, 1\].*input.mean \[0.5"),
        (plain, "expected weights with the released head.*no head"),
        (incomplete, "missing: layer5.head.1.weight"),
    ):
        with pytest.raises(ValueError, match=message):
            torch_files.write_released(refused, tmp_path / "refused.pkl")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("which", ["last", "best"])
def test_the_folder_of_a_stage_gives_its_network_prototypes_and_score(which, tmp_path):
    states = []
    checkpoints = Checkpoints(tmp_path / "stage1" / "checkpoints")
    for step, miou in ((3, 40.0), (6, 30.0)):
        arrays = small_weights().arrays | {"conv1.weight": np.full((8, 3, 7, 7), step, np.float32)}
        variables = jax.tree.map(jnp.asarray, from_torch(arrays, shapes_of(small_model(extra_norm=True))))
        vectors = jnp.full((CLASSES, 32), float(step))
        states.append(
            TrainState(
                step=jnp.int32(step),
                key=jax.random.key(0),
                opt_state=(),
                prototypes=Prototypes(vectors, jnp.arange(CLASSES, dtype=jnp.float32)),
                **variables,
            )
        )
        checkpoints.save(states[-1], miou)
    checkpoints.close()
    entries = {"last": {"step": 6, "miou": 30.0}, "best": {"step": 3, "miou": 40.0}}
    (tmp_path / "stage1" / "result.json").write_text(str(entries).replace("'", '"'))
    state = states[which == "last"]
    vectors = np.full((CLASSES, 32), int(state.step), np.float32)
    vectors[0] = 0  # never seen
    expected = weights.Weights(to_torch(state.variables), vectors, int(state.step), entries[which]["miou"] / 100)
    assert_equal(weights.load(tmp_path / "stage1", which=which), expected)


# The account


def test_every_array_is_named_that_is_missing_left_over_or_of_another_shape(tmp_path, capsys):
    state = fixtures.network().state_dict()
    del state["layer2.0.bn2.running_mean"], state["layer5.bottleneck.2.bias"]
    state["layer3.0.conv2.weight"] = torch.zeros(32, 32, 1, 1)
    state["fc.weight"] = torch.zeros(1)
    path = save_torch(state, tmp_path / "broken.pth")
    (tmp_path / "out.npz").write_text("an older result")
    with pytest.raises(ValueError) as refusal:
        convert(path, tmp_path / "out.npz", **SMALL)
    wrong = "layer3.0.conv2.weight has shape (32, 32, 1, 1), expected (32, 32, 3, 3)"
    missing = "layer2.0.bn2.running_mean, layer5.bottleneck.2.bias"
    assert str(path) in str(refusal.value) and wrong in str(refusal.value) and missing in str(refusal.value)
    printed = capsys.readouterr().out
    assert f"missing: {missing}\n" in printed and f"wrong shape: {wrong}\n" in printed
    assert "left over: *.num_batches_tracked (17), fc.weight\n" in printed
    assert (tmp_path / "out.npz").read_text() == "an older result"
    convert_all = functools.partial(convert, path, tmp_path / "out.npz", **SMALL)
    with pytest.raises(ValueError, match="layer3.0.conv2.weight has shape"):
        convert_all(allow_missing=["layer2.0.bn2.running_mean", "layer5.*"])  # a shape is never allowed to be wrong
    state["layer3.0.conv2.weight"] = torch.zeros(32, 32, 3, 3)
    save_torch(state, path)
    with pytest.raises(ValueError, match="missing: layer2.0.bn2.running_mean"):
        convert_all(allow_missing=["layer5.*"])
    convert_all(allow_missing=["layer5.*", "layer2.0.bn2.running_mean"], verbose=True)
    assert "layer4.0.bn1.num_batches_tracked, " in capsys.readouterr().out
    with np.load(tmp_path / "out.npz") as arrays:
        assert "conv1.weight" in arrays and "layer2.0.bn2.running_mean" not in arrays


def test_a_missing_classifier_is_reported_and_no_error(tmp_path):
    state = fixtures.network().state_dict()
    del state["layer5.head.1.weight"]
    read, account = weights.read(save_torch(state, tmp_path / "a.pth"))
    assert account.missing == ("layer5.head.1.weight",)
    account.check("a.pth")
    assert (read.head, read.classes) == ("released", None)


def test_a_file_for_another_network_is_refused_with_what_it_looks_like(tmp_path):
    path = save_torch(fixtures.network(depths=(2, 1, 1, 1)).state_dict(), tmp_path / "a.pth")
    assert weights.load(path).backbone.depths == (2, 1, 1, 1)
    with pytest.raises(ValueError, match=r"missing: layer1.2.*looks like depths \(2, 1, 1, 1\) and width 8"):
        weights.load(path, depths=(3, 1, 1, 1))
    with pytest.raises(ValueError, match=r"layer5.head.1.weight has shape \(5, 32, 1, 1\), expected \(19, 32, 1, 1\)"):
        weights.load(path, classes=19)
    with pytest.raises(ValueError, match=r"conv1.weight has shape \(8, 3, 7, 7\), expected \(64, 3, 7, 7\)"):
        weights.load(path, width=64)


@pytest.mark.parametrize(
    "settings", [{"extra_norm": True}, {"head": "deeplab"}, {"depths": (2, 3), "width": 4, "dilations": (1,)}]
)
def test_a_layout_has_the_names_and_shapes_of_the_network_it_was_read_off(settings):
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes_of(small_model(**settings)))
    shapes = {name: array.shape for name, array in to_torch(zeros).items()}
    layout = read_off(shapes)
    assert layout.shapes() == {name: shape for name, shape in shapes.items() if not name.startswith("input.")}

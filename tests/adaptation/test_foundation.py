"""Class prototypes of a frozen network (DFUDA): what they are, and that they come from a file of its weights."""

import functools

import flax
import jax
import numpy as np
import pytest
from tiny import CLASSES, block_source, tiny_config, tiny_model, tiny_stage, tiny_variables

from proda_jax.adaptation.stages import build, prepare
from proda_jax.configs import base
from proda_jax.data.label_spaces import label_space
from proda_jax.models.backbones import BACKBONES
from proda_jax.models.weights.torch_names import to_torch
from proda_jax.run import settings
from proda_jax.run.networks import Networks
from proda_jax.run.workdir import Workdir
from proda_jax.system import devices


def config_of(**changes):
    c = tiny_config()
    c.mix = tiny_stage(base.mix("random", 2), foundation="resnet50", foundation_file="none", **changes)
    c.stages = ("mix",)
    return c


def tiny_foundation(folder, monkeypatch):
    """A run whose foundation is a tiny ResNet in a file of the folder; its variables."""
    monkeypatch.setitem(BACKBONES, "resnet50", build.backbone_of(tiny_config().model))
    variables = tiny_variables(tiny_model(tiny_config()), 3)
    np.savez(folder / "weights.npz", **to_torch(variables))
    c = config_of()
    c.mix.foundation_file = str(folder / "weights.npz")
    return c, variables


def networks_of(c, folder):
    return Networks(c, Workdir(folder), devices.make_mesh(1), label_space("camvid11"))


def test_how_its_images_are_fed_is_a_guess_that_is_said_unless_it_is_named(tmp_path, monkeypatch, capsys):
    c, variables = tiny_foundation(tmp_path, monkeypatch)
    held = {name: array for name, array in to_torch(variables).items() if not name.startswith("input.")}
    np.savez(tmp_path / "weights.npz", **held)
    for images, mean, guess in (("", 0.0, True), ("0.4,0.4,0.4/0.2,0.2,0.2", 0.4, False)):
        c.mix.foundation_input = images
        settings.check(c)
        networks = networks_of(c, tmp_path)
        networks.check_files(["mix"])  # before an earlier stage is trained
        remedy = "this is a guess, as the file does not say (config.mix.foundation_input says otherwise)"
        assert (remedy in capsys.readouterr().err) == guess
        np.testing.assert_allclose(networks.foundation("mix")[1]["batch_stats"]["input"]["mean"], mean)


def test_they_are_mean_directions_of_the_features_of_each_class_by_the_weights_in_the_file(tmp_path, monkeypatch):
    (c, variables), mesh = tiny_foundation(tmp_path, monkeypatch), devices.make_mesh(1)
    model, read = networks_of(c, tmp_path).foundation("mix")
    source = block_source(3, 0)
    found = prepare.foundation_prototypes(model, read, source, CLASSES, 2, mesh)
    given = flax.traverse_util.flatten_dict(variables["params"]["backbone"])
    for path, array in flax.traverse_util.flatten_dict(jax.device_get(read)["params"]["backbone"]).items():
        np.testing.assert_array_equal(array, given[path])
    plain = tiny_model(tiny_config())
    images = np.float32(source.images) / 255
    apply = jax.jit(functools.partial(plain.apply, train=False, mutable=["intermediates"]))
    _, kept = apply(variables, images)
    features = np.asarray(kept["intermediates"]["encoded"][0])
    features = features / np.linalg.norm(features, axis=-1, keepdims=True)
    rows, columns = (np.arange(n) * m // n for n, m in zip(features.shape[1:3], images.shape[1:3], strict=True))
    labels = source.labels[:, rows][:, :, columns]
    for k in range(CLASSES):
        total = features[labels == k].sum(0)
        expected = total / max(np.linalg.norm(total), 1e-12)
        np.testing.assert_allclose(found[k], expected, atol=1e-4)
    network = build.stage_network(plain, c.mix)
    assert network.foundation_channels == found.shape[1] == model.backbone.levels[-1].channels


@pytest.mark.parametrize(("changes", "said"), [
    ({"foundation": "dinov9"}, "config.mix.foundation = 'dinov9': expected one of"),
    ({"foundation_file": None}, "config.mix.foundation_file = None: expected a file with weights of resnet50"),
    ({"foundation_file": "/nowhere"}, "config.mix.foundation_file = '/nowhere': expected a file that exists"),
    ({"foundation_input": "bgr"}, "config.mix.foundation_input: input convention 'bgr': expected one of rgb01"),
    ({"foundation": None}, "config.mix.foundation_file = 'none': expected None, as it acts beside foundation"),
])  # fmt: skip
def test_settings_that_cannot_work_or_would_be_idle_are_refused(changes, said):
    c = config_of()
    c.mix.update(changes)
    with pytest.raises(ValueError, match=said):
        settings.check(c)

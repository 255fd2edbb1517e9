"""Exported networks, in processes that know nothing of this program: they say what the network says."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
import textwrap

import flax.linen as nn
import jax
import numpy as np
import pytest
import runs
from etils import epath
from runs import IMAGES, write_run
from tiny import IMAGE, tiny_config, tiny_model, tiny_variables

from proda_jax import load
from proda_jax.data.label_spaces import label_space
from proda_jax.inference import export_onnx, onnx_conversion
from proda_jax.inference.export import export, labels

READERS = {
    # TensorFlow's converter makes one of the same SavedModel
    "savedmodel and tflite": """
        sys.modules["jax"] = sys.modules["jaxlib"] = None  # so that neither can be imported
        import tensorflow as tf
        network = tf.lite.Interpreter(model_content=tf.lite.TFLiteConverter.from_saved_model(folder).convert())
        network.allocate_tensors()
        put, got = network.get_input_details()[0]["index"], network.get_output_details()[0]["index"]
        def of_one(image):
            network.set_tensor(put, image[None])
            network.invoke()
            return network.get_tensor(got)[0]
        serve = tf.saved_model.load(folder).signatures["serving_default"]
        def predict(images):
            labels = serve(images=tf.constant(images))["labels"].numpy()
            np.testing.assert_array_equal(np.stack(list(map(of_one, images))), labels)
            return labels
        """,
    "stablehlo": """
        import pathlib
        import jax.export
        exported = jax.export.deserialize(pathlib.Path(folder, "network.stablehlo").read_bytes())
        predict = lambda images: np.asarray(exported.call(images))
        """,
}
READING = """
    import sys
    import numpy as np
    folder, images, labels = sys.argv[1:]
    {reader}
    images = np.load(images)
    np.savez(labels, one=predict(images[:1]), all=predict(images))
    assert not any(name.startswith(("proda_jax", "flax", "orbax")) for name in sys.modules)
    """


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize(
    ("reader", "options"),
    [("savedmodel and tflite", {}), ("stablehlo", {"scales": (0.5, 1.0), "flip": True})],
)
def test_an_exported_network_gives_the_same_labels(reader, options, workdir, tmp_path):
    segmenter = load(workdir, **options)
    export(segmenter, tmp_path / "exported", "stablehlo" if reader == "stablehlo" else "savedmodel")
    np.save(tmp_path / "images.npy", IMAGES)
    script = textwrap.dedent(READING).format(reader=textwrap.dedent(READERS[reader]).strip())
    files = [tmp_path / "exported", tmp_path / "images.npy", tmp_path / "labels.npz"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", script, *map(str, files)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    labels = dict(np.load(tmp_path / "labels.npz"))
    expected = np.stack([segmenter(image) for image in IMAGES])
    assert labels["all"].dtype == np.uint8 and len(np.unique(expected)) > 3
    np.testing.assert_array_equal(labels["all"], expected)
    np.testing.assert_array_equal(labels["one"], expected[:1])
    about = json.loads((tmp_path / "exported" / "card.json").read_text())
    space = label_space("camvid11")
    assert about["classes"] == list(space.classes) and about["colors"] == space.colors.tolist()
    assert about["input"]["shape"] == [None, *IMAGE, 3]


def test_a_network_without_a_size_is_not_exported(workdir, tmp_path):
    with pytest.raises(ValueError, match="--resize=0: an exported network takes images of one size"):
        export(load(workdir, resize=0), tmp_path, "stablehlo")


def test_what_cannot_be_written_is_refused(workdir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="--output = .* cannot be written to"):
        export(load(workdir), tmp_path / "file" / "out", "savedmodel")


@pytest.mark.parametrize(("name", "kind"), [("net.onnx", "onnx"), ("net.onnx", "savedmodel"), ("a.pb", "savedmodel")])
def test_an_output_that_is_called_as_a_file_is_refused(name, kind, workdir, tmp_path):
    with pytest.raises(ValueError, match=f"--output=.*{name}: expected a folder, to which .* is written; leave out"):
        export(load(workdir), tmp_path / name, kind)
    assert not (tmp_path / name).exists()


def test_another_width_makes_another_size(workdir, tmp_path):
    export(load(workdir, resize=48), tmp_path, "stablehlo")
    assert json.loads((tmp_path / "card.json").read_text())["output"]["shape"] == [None, 24, 48]


def networks(backbone: str):
    """A tiny network above each kind of backbone that ONNX Runtime is compared on."""
    c = tiny_config()
    if backbone != "resnet101":
        c.model.backbone, c.model.depths, c.model.width = backbone, (), 0
        c.model.head = "deeplabv3plus" if backbone == "efficientnet_lite0" else "daformer"
    model = tiny_model(c)
    return model, tiny_variables(model, 0)


@pytest.mark.parametrize("backbone", [
    "resnet101", *(pytest.param(name, marks=pytest.mark.slow) for name in ("efficientnet_lite0", "mit_b0"))
])  # fmt: skip
def test_onnx_runtime_gives_the_same_labels(backbone, tmp_path):
    pytest.importorskip("jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    model, variables = networks(backbone)
    predict = functools.partial(labels, model)
    export_onnx.write(predict, variables, IMAGE, epath.Path(tmp_path))
    session = runtime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    found = np.concatenate([session.run(["labels"], {"images": image[None]})[0] for image in IMAGES])
    expected = np.concatenate([jax.jit(predict)(variables, image[None]) for image in IMAGES])  # compiled by `write`
    assert found.dtype == np.uint8 and len(np.unique(expected)) > 3
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_onnx_runtime_gives_the_same_labels_at_two_resolutions(tmp_path, capfd):
    runtime = pytest.importorskip("onnxruntime")
    c = tiny_config()
    c.model.backbone, c.model.depths, c.model.width, c.model.head = "mit_b0", (), 0, "daformer"
    c.model.detail_size = (32, 32)
    model = tiny_model(c)
    predict, variables = functools.partial(labels, model), tiny_variables(model, 0)
    image = IMAGES[:1]
    export_onnx.write(predict, variables, IMAGE, epath.Path(tmp_path))
    session = runtime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    assert not capfd.readouterr().err  # no warning of sizes that are not so
    expected = np.asarray(jax.jit(predict)(variables, image))
    assert len(np.unique(expected)) > 3
    np.testing.assert_array_equal(session.run(["labels"], {"images": image})[0], expected)


def test_a_network_that_cannot_be_converted_is_refused_in_a_sentence_with_what_can(tmp_path):
    pytest.importorskip("jax2onnx")

    def predict(variables, images):
        grey = images.astype(np.float32).mean(-1)
        values = jax.lax.linalg.svd(grey, compute_uv=False)[0]  # a primitive without a counterpart in ONNX
        return (grey > values.mean()).astype(np.uint8)

    message = "jax2onnx cannot convert this network .*svd.*: --format=savedmodel and stablehlo are there"
    with pytest.raises(ValueError, match=message) as no:
        export_onnx.write(predict, {}, (8, 8), epath.Path(tmp_path))
    assert "\n" not in str(no.value) and not list(tmp_path.iterdir())


def test_a_conversion_that_is_wrong_is_noticed(monkeypatch, tmp_path):
    """As of JAX's max pooling, whose padding jax2onnx 0.13.0 leaves out, unless the program is put in other words."""
    pytest.importorskip("jax2onnx")

    def predict(variables, images):
        largest = nn.max_pool(images.astype(np.float32), window_shape=(3, 3), padding=((1, 1), (1, 1)))
        return (largest[..., 0] > 220).astype(np.uint8)

    monkeypatch.setattr(onnx_conversion, "plain", lambda function, example: function)
    with pytest.raises(ValueError, match="jax2onnx cannot convert this network .*(other labels to|cannot run)"):
        export_onnx.write(predict, {}, (8, 8), epath.Path(tmp_path))
    assert not list(tmp_path.iterdir())


def test_onnx_computes_in_float32_and_says_so(tmp_path, monkeypatch, capsys):
    """ONNX Runtime 1.32 refuses a file whose products are in bfloat16."""
    pytest.importorskip("jax2onnx")
    written = []
    monkeypatch.setattr(export_onnx, "write", lambda predict, variables, size, output: written.append(predict.args[0]))
    for dtype, says in (("bfloat16", True), ("float32", False)):
        export(runs.segmenter(**{"model.dtype": dtype}), tmp_path, "onnx")
        assert written.pop().dtype == np.float32
        assert ("has no convolution in bfloat16, so it computes in float32" in capsys.readouterr().err) == says


def test_onnx_without_its_package_is_refused_with_pips_command(workdir, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jax2onnx" else find(name))
    with pytest.raises(ValueError, match=r"an ONNX file needs jax2onnx, .*: pip install 'proda-jax\[onnx"):
        export(load(workdir), tmp_path / "exported", "onnx")
    assert not (tmp_path / "exported").exists()

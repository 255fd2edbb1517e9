"""Exported networks, in processes that know nothing of this program: they say what the network says."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from runs import IMAGES, write_run
from tiny import IMAGE

from proda_jax import load
from proda_jax.data.label_spaces import label_space
from proda_jax.inference.export import export

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


def test_another_width_makes_another_size(workdir, tmp_path):
    export(load(workdir, resize=48), tmp_path, "stablehlo")
    assert json.loads((tmp_path / "card.json").read_text())["output"]["shape"] == [None, 24, 48]

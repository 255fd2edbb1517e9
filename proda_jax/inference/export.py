"""Writes a network for programs that know nothing of this one: TensorFlow's SavedModel, StableHLO, or ONNX."""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from etils import epath

from proda_jax.adaptation.averaging import averaged_probabilities, logits_of_views, mean_probabilities
from proda_jax.inference import export_onnx
from proda_jax.inference.onnx_conversion import in_float32
from proda_jax.inference.segmenter import Segmenter
from proda_jax.models.deeplab import SegmentationNetwork
from proda_jax.models.resizing import resize_align_corners
from proda_jax.system.extras import need
from proda_jax.system.files import check_writable, write_atomically
from proda_jax.system.progress import phase

PLATFORMS = ("cpu", "cuda", "tpu")  # that an exported network runs on, whichever it was exported on
STABLEHLO = "network.stablehlo"
MAIN_FILES = {"savedmodel": "saved_model.pb", "stablehlo": STABLEHLO, "onnx": export_onnx.FILE}  # in the folder
TENSORFLOWS_STABLEHLO = "1.13.0"  # StableHLO's version; the oldest TensorFlow that is asked for, 2.21, reads 1.13.7


def labels(
    model: SegmentationNetwork,
    variables: Any,
    images: jax.Array,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> jax.Array:
    """What is exported: the same labels as `Segmenter` gives images that are as large as the network sees them.

    Args:
      model, variables: the network.
      images: uint8 [batch, height, width, 3], RGB.
      scales, flip: see `averaging.logits_of_views`.

    Returns:
      Train ids uint8 [batch, height, width].
    """
    logits, size = logits_of_views(model, variables, images, scales=scales, flip=flip), images.shape[1:3]
    if sum(of_scale.shape[1] for of_scale in logits) == 1:  # probabilities are in their order
        scores = resize_align_corners(jnp.squeeze(logits[0], 1), size)
    else:
        scores = mean_probabilities(logits, size)
    return jnp.argmax(scores, axis=-1).astype(jnp.uint8)


def probabilities(
    model: SegmentationNetwork,
    variables: Any,
    images: jax.Array,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> jax.Array:
    """What a SavedModel's labels are chosen from: float32 [batch, height, width, classes]."""
    return averaged_probabilities(model, variables, images, images.shape[1:3], scales=scales, flip=flip)


def export(segmenter: Segmenter, output: epath.PathLike, kind: str) -> None:
    """Writes a network, and `card.json` beside it: names and colours of the classes, and the size of its images.

    Args:
      segmenter: the network; it is exported for images of the size that it knows, in batches of any number (as ONNX, of
        one).
      output: folder to write to; what it holds of an earlier export is replaced.
      kind: 'savedmodel', 'stablehlo' or 'onnx'.

    Raises:
      ValueError: the images' size is open, `output` is called as a file or cannot be written to, TensorFlow or jax2onnx
        is missing, or jax2onnx cannot convert the network.
    """
    size = segmenter.known_size
    if size is None:
        raise ValueError("--resize=0: an exported network takes images of one size; name its width, or leave it out")
    output = epath.Path(output)
    if output.suffix in {epath.Path(file).suffix for file in MAIN_FILES.values()} and not output.is_dir():
        raise ValueError(f"--output={output}: expected a folder, to which {MAIN_FILES[kind]} is written; leave out "
                         f"{output.suffix!r}")  # fmt: skip
    if kind == "savedmodel":
        need("a SavedModel", "train", "tensorflow")
    if kind == "onnx":
        need("an ONNX file", "onnx", "jax2onnx", "onnxruntime")
    check_writable(output, "--output")
    model, variables = segmenter.network
    if kind == "onnx":
        model = in_float32(model)
    says, write = {
        "savedmodel": (probabilities, write_savedmodel), "stablehlo": (labels, write_stablehlo),
        "onnx": (labels, export_onnx.write),
    }[kind]  # fmt: skip
    predict = functools.partial(says, model, scales=segmenter.scales, flip=segmenter.flip)
    with phase(f"writing {kind}"):
        write(predict, variables, size, output)
    batch = 1 if kind == "onnx" else None
    about = segmenter.card.as_json() | {
        "input": {"name": "images", "dtype": "uint8", "shape": [batch, *size, 3], "holds": "RGB"},
        "output": {"name": "labels", "dtype": "uint8", "shape": [batch, *size], "holds": "positions in classes"},
    }
    write_atomically(output / "card.json", json.dumps(about, indent=2))
    print(f"{kind}: {output}, for images of {size[0]} x {size[1]} pixels")


def write_savedmodel(
    predict: Callable[[Any, jax.Array], jax.Array], variables: Any, size: tuple[int, int], output: epath.Path
) -> None:
    """Writes a TensorFlow SavedModel, whose signature 'serving_default' is 'images' -> 'labels'.

    Which class is the most probable TensorFlow finds itself: TFLite's converter takes its argmax, and not JAX's.

    Args:
      predict: (variables, uint8 [batch, height, width, 3]) -> probabilities [batch, height, width, classes].
      variables: of the network; they become the SavedModel's variables.
      size: height and width of the images.
      output: its folder.
    """
    from proda_jax.data.decode import has_tensorflow

    has_tensorflow()  # or it would take the accelerators' memory
    import tensorflow as tf
    from jax.extend.mlir.dialects import stablehlo
    from tensorflow.compiler.tf2xla.python import xla

    # not jax2tf, which serialises for a TensorFlow of at most some weeks ago
    held = jax.device_get(variables)
    exported = exported_for_batches(predict, size, jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), held))
    program = stablehlo.serialize_portable_artifact_str(exported.mlir_module(), TENSORFLOWS_STABLEHLO)
    module = tf.Module()
    module.variables_of_network = tf.nest.map_structure(tf.Variable, held)

    @functools.partial(
        tf.function, autograph=False, input_signature=[tf.TensorSpec((None, *size, 3), tf.uint8, name="images")]
    )
    def serve(images):
        given = [*map(tf.convert_to_tensor, tf.nest.flatten(module.variables_of_network)), images]
        [probable] = xla.call_module(
            [given[i] for i in exported.module_kept_var_idx],
            version=exported.calling_convention_version,
            module=program,
            Tout=[tf.float32],
            Sout=[(None, *exported.out_avals[0].shape[1:])],
            platforms=[platform.upper() for platform in exported.platforms],
        )
        return {"labels": tf.cast(tf.argmax(probable, axis=-1, output_type=tf.int32), tf.uint8)}

    module.serve = serve
    tf.saved_model.save(module, str(output), signatures=serve)


def write_stablehlo(
    predict: Callable[[Any, jax.Array], jax.Array], variables: Any, size: tuple[int, int], output: epath.Path
) -> None:
    """Writes `STABLEHLO`, which `jax.export.deserialize` reads: images -> labels, with the weights inside.

    Args: as of `write_savedmodel`, but that `predict` gives labels, uint8 [batch, height, width].
    """
    held = jax.device_get(variables)
    exported = exported_for_batches(lambda images: predict(held, images), size)
    write_atomically(output / STABLEHLO, exported.serialize())


def exported_for_batches(
    function: Callable[..., jax.Array], size: tuple[int, int], *shapes: Any
) -> jax.export.Exported:
    """A function of images, compiled for `PLATFORMS` and batches of any number.

    Args:
      function: (what has `shapes`, uint8 [batch, height, width, 3]) -> its result.
      size: height and width of the images.
      shapes: of its other arguments, `jax.ShapeDtypeStruct`s.
    """
    images = jax.ShapeDtypeStruct(jax.export.symbolic_shape(f"batch, {size[0]}, {size[1]}, 3"), jnp.uint8)
    return jax.export.export(jax.jit(function), platforms=PLATFORMS)(*shapes, images)

"""Decodes image and label files with TensorFlow, which is imported on first use, for the input pipeline.

Every function takes and gives tensors, in a tf.data pipeline as outside one.
"""

import functools
import os
from collections.abc import Callable

import numpy as np

from proda_jax.data.label_spaces import LabelMap


def cores() -> int:
    """How many threads can decode at once on this machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def has_tensorflow() -> bool:
    """Whether TensorFlow can be imported, which takes seconds; there is none for the newest Python, as a rule.

    It leaves the accelerators' memory to JAX: a TensorFlow that can use them would take all of it. Ask it first.
    """
    try:
        import tensorflow as tf
    except ImportError:
        return False
    tf.config.set_visible_devices([], "GPU")
    return True


def image(encoded):
    """Pixels of a PNG (8 or 16 bits, grey, palette, with alpha) or JPEG file, uint8 [height, width, 3], RGB."""
    import tensorflow as tf

    return tf.cond(
        tf.io.is_jpeg(encoded),
        # TensorFlow's default transform is a fast, inexact one; other decoders, Pillow's too, use the accurate one.
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_png(encoded, channels=3),
    )


def raw_label(png, *, in_color: bool, then: Callable | None = None):
    """Raw values of a label PNG, int32 [height, width].

    Args:
      png: an encoded PNG; unless colours are wanted, one of 8 or 16 bits without a palette.
      in_color: values are colours, see `label_spaces.color_number`; otherwise they are the first channel's.
      then: what is made of them instead, from an integer type of any width.
    """
    import tensorflow as tf

    then = then or (lambda values: tf.cast(values, tf.int32))
    if in_color:
        color = tf.cast(tf.io.decode_png(png, channels=3), tf.int32)
        return then(color[..., 0] * 65536 + color[..., 1] * 256 + color[..., 2])
    depth = tf.io.decode_raw(tf.strings.substr(png, 24, 1), tf.uint8)[0]  # a PNG's header holds its bit depth there
    return tf.cond(
        depth == 16,
        lambda: then(tf.io.decode_png(png, dtype=tf.uint16)[..., 0]),
        lambda: then(tf.io.decode_png(png)[..., 0]),
    )


def label(png, label_map: LabelMap):
    """Train ids of a label PNG, uint8 [height, width]."""
    import tensorflow as tf

    def ids(raw):
        # tf.gather wants int32 and copies value by value: four times as long for all, decoding included
        found = tf.numpy_function(lambda raw: np.take(label_map.table, raw), [raw], tf.uint8, stateful=False)
        return tf.ensure_shape(found, raw.shape)

    return raw_label(png, in_color=label_map.in_color, then=ids)


def label_size(label):
    """Height and width of a label, int32 [2]."""
    import tensorflow as tf

    return tf.shape(label)


def resized(pixels, size: tuple[int, int], method: str):
    """Pixels at `size`, uint8 [height, width, channels]; 'bilinear' averages where it shrinks, 'nearest' picks."""
    import tensorflow as tf

    def resize():
        changed = tf.image.resize(pixels, size, method, antialias=method == "bilinear")
        return tf.cast(tf.clip_by_value(tf.round(tf.cast(changed, tf.float32)), 0, 255), tf.uint8)

    same = tf.reduce_all(tf.shape(pixels)[:2] == size)
    return tf.ensure_shape(tf.cond(same, lambda: pixels, resize), (*size, pixels.shape[-1]))

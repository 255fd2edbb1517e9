"""Which decoder reads files for training: TensorFlow's where that can be imported, otherwise Pillow's.

Both give the same pixels.
"""

import functools

from proda_jax.data import decode


@functools.cache
def has_tensorflow() -> bool:
    """Whether TensorFlow can be imported, which takes seconds; there is none for the newest Python, as a rule."""
    try:
        import tensorflow  # noqa: F401
    except ImportError:
        return False
    decode.hide_accelerators()
    return True

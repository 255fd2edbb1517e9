"""Source images that have the target's amplitudes, against NumPy."""

import jax
import numpy as np
import own_logits
import pytest
from tiny import CLASSES, blocks, tiny_config

from proda_jax.adaptation.stages import step as steps
from proda_jax.adaptation.state import TrainState
from proda_jax.configs import base

SIZE, BETA, BATCH = (48, 96), 0.05, 3


def recomposed(source: np.ndarray, target: np.ndarray, window: str) -> np.ndarray:
    """FDA of one image, channel by channel."""
    most, (height, width) = int(BETA * min(SIZE)), SIZE
    rows, columns = np.arange(height), np.arange(width)
    if window == "corners":
        near = [(n < most) | (n >= size - most) for n, size in ((rows, height), (columns, width))]
    else:
        near = [np.minimum(n, size - n) <= most for n, size in ((rows, height), (columns, width))]
    inside = near[0][:, None] & near[1]
    out = []
    for c in range(3):
        own, other = np.fft.fft2(source[..., c]), np.fft.fft2(target[..., c])
        out.append(np.fft.ifft2(np.where(inside, np.abs(other), np.abs(own)) * np.exp(1j * np.angle(own))).real)
    return np.stack(out, -1)


@pytest.mark.parametrize("window", ["symmetric", "corners"])
def test_a_source_view_has_the_amplitudes_of_the_target_view_beside_it(window):
    stage, views = base.supervised("random", 1), tiny_config().views
    stage.fourier_beta, stage.fourier_window = BETA, window
    views.crop_size, views.base_width, views.scale, views.flip = SIZE, SIZE[1], (1.0, 1.0), False  # images as they are
    setup = own_logits.setup_of(stage, views, CLASSES)
    state = TrainState(step=np.int32(5), key=jax.random.key(0), params={}, batch_stats={}, opt_state=())
    (images, labels), (target, _) = blocks(BATCH, 0), blocks(BATCH, 1)
    target = (target // 2).astype(np.uint8)  # darker
    batch, slots = {"image": images, "label": labels}, np.arange(BATCH, dtype=np.int32)
    view = jax.jit(lambda batch, target: steps.labelled_view(setup, state, batch, slots, target=target))
    actual, label = view(batch, target)
    expected = np.stack([recomposed(*pair, window) for pair in zip(images, target, strict=True)]) / 255
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    np.testing.assert_array_equal(label, labels)
    own, _ = jax.jit(lambda batch: steps.labelled_view(setup, state, batch, slots))(batch)
    assert np.abs(own - expected).mean() > 0.1

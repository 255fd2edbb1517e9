"""Fourier domain adaptation: a source image with the low frequencies' amplitudes of a target image (FDA).

Yang and Soatto, CVPR 2020, Equation 3.
"""

import jax
import jax.numpy as jnp
import numpy as np


def low_frequencies(size: tuple[int, int], beta: float) -> np.ndarray:
    """Frequencies up to floor(beta * shorter side) in both directions, bool [height, width], as `fft2` orders them."""
    most = int(np.floor(beta * min(size)))
    rows, columns = (np.abs(np.fft.fftfreq(n, 1 / n)) <= most + 0.5 for n in size)
    return rows[:, None] & columns[None, :]


def corner_window(size: tuple[int, int], beta: float) -> np.ndarray:
    """The window of the authors' training code: floor(beta * shorter side) rows and columns at each corner.

    It lacks the highest positive frequency of `low_frequencies`, and is empty, where that has the mean, for a small
    beta.
    """
    most = int(np.floor(beta * min(size)))
    rows, columns = ((np.arange(n) < most) | (np.arange(n) >= n - most) for n in size)
    return rows[:, None] & columns[None, :]


WINDOWS = {"symmetric": low_frequencies, "corners": corner_window}


def exchange_amplitudes(source: jax.Array, target: jax.Array, window: np.ndarray) -> jax.Array:
    """The source with the target's amplitudes of the frequencies in the window, and its own phases.

    Args:
      source, target: [..., height, width, channels] of one size.
      window: bool [height, width], see `low_frequencies`.

    Returns:
      float32, the shape of `source`, not cut to any range.
    """
    spectra = [jnp.fft.fft2(x.astype(jnp.float32), axes=(-3, -2)) for x in (source, target)]
    amplitudes = jnp.where(window[..., None], jnp.abs(spectra[1]), jnp.abs(spectra[0]))
    mixed = amplitudes * jnp.exp(1j * jnp.angle(spectra[0]))
    return jnp.real(jnp.fft.ifft2(mixed, axes=(-3, -2)))

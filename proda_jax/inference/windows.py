"""A window that slides over an image which is too large to be predicted at once (NumPy only)."""

from collections.abc import Callable, Iterator

import numpy as np

OVERLAP = 1 / 4  # least share of a window that it has in common with the next one


def starts(size: int, window: int) -> list[int]:
    """Where windows begin along one axis: evenly spread, the first at the beginning, the last up to the end."""
    if window >= size:
        return [0]
    stride = max(int(window * (1 - OVERLAP)), 1)
    count = -(-(size - window) // stride) + 1
    return [int(start) for start in np.linspace(0, size - window, count).round()]


def ramp(size: int) -> np.ndarray:
    """Weight of each place in a window, float32 [size]: falls linearly to its ends, and is zero nowhere."""
    place = np.arange(size)
    return np.minimum(place + 1, size - place).astype(np.float32)


def blended(
    image: np.ndarray, window: int, batch_size: int, predict: Callable[[np.ndarray], np.ndarray]
) -> Iterator[np.ndarray]:
    """Predictions of windows, averaged where these overlap, a band of rows at a time from top to bottom.

    No more than one row of windows is held, so memory grows with the image's width alone.

    Args:
      image: [height, width, channels].
      window: side of a window, pixels; one that is larger than the image is cut.
      batch_size: how many windows are predicted at once.
      predict: images [n, h, w, channels] -> [n, h, w, classes], of up to `batch_size` windows.

    Returns:
      Iterator over float32 [rows, width, classes]; together they have the image's height.
    """
    height, width = image.shape[:2]
    rows, columns = min(window, height), min(window, width)
    weight = (ramp(rows)[:, None] * ramp(columns))[..., None]
    tops, lefts = starts(height, window), starts(width, window)
    total, weights = None, np.zeros((rows, width, 1), np.float32)
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        for first in range(0, len(lefts), batch_size):
            chosen = lefts[first : first + batch_size]
            windows = np.stack([image[top : top + rows, left : left + columns] for left in chosen])
            for left, prediction in zip(chosen, predict(windows), strict=True):
                if total is None:
                    total = np.zeros((rows, width, prediction.shape[-1]), np.float32)
                total[:, left : left + columns] += weight * prediction
                weights[:, left : left + columns] += weight
        done = following - top  # no later window reaches these rows
        yield total[:done] / weights[:done]
        for held in (total, weights):
            held[: rows - done] = held[done:].copy()
            held[rows - done :] = 0

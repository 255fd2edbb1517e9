"""Filters of a PNG's rows taken back, compiled by Numba at the first use and kept in its cache."""

import numba
import numpy as np

_NONE, _LEFT, _UP, _MEAN = range(4)  # filters of a row; the fifth is Paeth's


@numba.njit(inline="always")
def _nearest(left, up, corner):
    """Paeth's choice: what of the three is nearest to left + up - corner."""
    from_left, from_up = up - corner, left - corner
    from_corner = abs(from_left + from_up)
    best, distance = left, abs(from_left)
    if abs(from_up) < distance:
        best, distance = up, abs(from_up)
    if from_corner < distance:
        best = corner
    return best


@numba.njit("void(Array(uint8, 2, 'C', readonly=True), Array(uint8, 2, 'C'), int64)", nogil=True, cache=True)
def unfilter(filtered, found, channels):
    """Bytes of rows, uint8 [height, width * channels], into `found`, from those with their filter in front."""
    before = np.zeros(found.shape[1], np.uint8)
    for number in range(found.shape[0]):
        kind, given, row = filtered[number, 0], filtered[number, 1:], found[number]
        for i in range(channels):
            up = before[i] >> 1 if kind == _MEAN else before[i]
            row[i] = given[i] if kind == _NONE or kind == _LEFT else given[i] + up
        if kind == _NONE:
            for i in range(channels, row.size):
                row[i] = given[i]
        elif kind == _LEFT:
            for i in range(channels, row.size):
                row[i] = given[i] + row[i - channels]
        elif kind == _UP:
            for i in range(channels, row.size):
                row[i] = given[i] + before[i]
        elif kind == _MEAN:
            for i in range(channels, row.size):
                row[i] = given[i] + ((np.int32(row[i - channels]) + np.int32(before[i])) >> 1)
        else:
            for i in range(channels, row.size):
                left, up, corner = np.int32(row[i - channels]), np.int32(before[i]), np.int32(before[i - channels])
                row[i] = given[i] + _nearest(left, up, corner)
        before = row

"""How the colours of a video are coded, where it says so and where it does not (PyAV, which is imported on first use).

FFmpeg follows a tag, and takes videos without one for BT.601 whatever their size (libswscale 9.5); players take large
ones for BT.709, which high-definition cameras mean.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av

AUTO = "auto"
MATRICES = {"bt601": 6, "bt709": 1, "bt2020": 9}  # FFmpeg's AVColorSpace, as in ITU-T H.273
CHOICES = (AUTO, *MATRICES)
_UNTAGGED = (2, 3)  # unspecified, reserved
_LIMITED, _NO_RANGE = 1, 0  # FFmpeg's AVColorRange
_BRIGHT = {16: "PQ", 18: "HLG"}  # transfer functions of high dynamic range


def convention(size: tuple[int, int]) -> str:
    """What untagged colours of a size (height, width) mean: BT.709 in high definition, BT.601 below."""
    return "bt709" if size[0] > 576 or size[1] >= 1280 else "bt601"


def settle(frame: "av.VideoFrame", untagged: str = AUTO) -> list[str]:
    """Tags a frame that says nothing of its colours; notes what will look odd.

    Args:
      frame: as decoded.
      untagged: of `CHOICES`; 'auto': what `convention` says of its size.
    """
    notes = []
    if frame.colorspace in _UNTAGGED and not frame.format.is_rgb:
        frame.colorspace = MATRICES[convention((frame.height, frame.width)) if untagged == AUTO else untagged]
    if bright := _BRIGHT.get(frame.color_trc):
        notes.append(f"its brightness is coded for HDR ({bright}), which is read as it is: colours look pale")
    return notes


def encoded(frame: "av.VideoFrame", pixel_format: str) -> "av.VideoFrame":
    """An RGB frame in a pixel format of an encoder, by the matrix that `tag` says."""
    from av.video.reformatter import ColorRange

    matrix = MATRICES[convention((frame.height, frame.width))]
    return frame.reformat(format=pixel_format, dst_colorspace=_swscale(matrix), dst_color_range=ColorRange.MPEG)


def tag(context: "av.VideoCodecContext", size: tuple[int, int]) -> None:
    """Writes into a video what its colours mean."""
    context.colorspace, context.color_range = MATRICES[convention(size)], _LIMITED


def _swscale(matrix: int):
    """FFmpeg's other number for the same matrix."""
    from av.video.reformatter import Colorspace

    return {1: Colorspace.ITU709, 6: Colorspace.ITU601}[matrix]

"""Small files in the place of others: what a clone without large files leaves, or a download that failed."""

_LFS = b"version https://git-lfs.github.com/spec/"
_PAGE = (b"<!doctype html", b"<html")
_LOOKED_AT = 512  # bytes


def stand_in(contents: bytes) -> str | None:
    """What a file is that stands for another, and how to get that; None: it does not look so."""
    first = contents[:_LOOKED_AT].lstrip().lower()
    if first.startswith(_LFS):
        return "it is a note of Git LFS that stands for the file: git lfs pull brings that"
    if first.startswith(_PAGE):
        return "it is a web page, as a download leaves that was answered with one: fetch the file again"
    return None

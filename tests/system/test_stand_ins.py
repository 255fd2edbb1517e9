"""What stands in the place of a file, wherever it is read: images, labels and weights."""

import numpy as np
import pytest
from PIL import Image

from proda_jax.data import pixels
from proda_jax.data_prep.examples import read_files
from proda_jax.data_prep.records import Record
from proda_jax.models import weights


@pytest.mark.parametrize(("contents", "message"), [
    ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 178793939\n", "git lfs pull"),
    ("\n<!DOCTYPE html>\n<html><body>Too many asked for this file</body></html>", "web page.*fetch the file again"),
], ids=["Git LFS", "a web page"])  # fmt: skip
def test_what_stands_for_a_file_is_named_with_how_to_get_that(contents, message, tmp_path):
    with pytest.raises(pixels.NoImage, match=message):
        pixels.read(contents.encode())
    for name in ("a.pth", "a.npz", "a.safetensors"):
        (tmp_path / name).write_text(contents)
        with pytest.raises(ValueError, match=f"{name}: expected a file of weights, and it is a .*{message}"):
            weights.load(tmp_path / name)
    (tmp_path / "a.png").write_text(contents)
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "b.png")
    for image, label in (("a.png", "b.png"), ("b.png", "a.png")):
        with pytest.raises(ValueError, match=f"a.png cannot be used: it is a .*{message}"):
            read_files(Record("a", tmp_path / image, tmp_path / label))

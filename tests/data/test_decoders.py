"""Pillow's decoder gives TensorFlow's pixels, and prepared data are what TFDS reads from them."""

import dataclasses
import itertools
import pathlib
import struct
import subprocess
import sys
import zlib

import fixtures
import numpy as np
import pytest
import raw_files
import tensorflow as tf
from PIL import Image

from proda_jax.data import decode, decode_pillow, pipeline
from proda_jax.data.label_spaces import IGNORE, label_map, label_space
from proda_jax.data.prepared import Prepared, parse_example
from proda_jax.data_prep.examples import index_png
from proda_jax.data_prep.prepare import prepare

SIZE = (48, 96)
ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("kind", raw_files.images_of_each_kind())
def test_images_of_each_kind_have_tensorflows_pixels(kind):
    file, expected = raw_files.images_of_each_kind()[kind]
    np.testing.assert_array_equal(decode_pillow.image(file), decode.image(file))
    if "jpeg" not in kind:
        np.testing.assert_array_equal(decode_pillow.image(file), expected)


JPEGS = [dict(quality=40), dict(subsampling=0), dict(subsampling=1, progressive=True)]


@pytest.mark.parametrize("options", JPEGS, ids=str)
def test_jpegs_of_each_sampling_have_tensorflows_pixels(options):
    smooth = Image.fromarray(raw_files.noise(9, 13, 3)).resize((117, 75), Image.Resampling.BICUBIC)
    file = raw_files.encoded(smooth, "JPEG", **options)
    np.testing.assert_array_equal(decode_pillow.image(file), decode.image(file))


def test_transparent_palettes_keep_their_colours():
    image = Image.fromarray(raw_files.noise(6, 8, 3)).quantize(8)
    file = raw_files.encoded(image, "PNG", transparency=bytes(range(8)))
    np.testing.assert_array_equal(decode_pillow.image(file), np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(decode_pillow.image(file), decode.image(file))


@pytest.mark.parametrize("kind", raw_files.labels_of_each_kind())
def test_labels_of_each_kind_have_their_values(kind):
    file, values = raw_files.labels_of_each_kind()[kind]
    np.testing.assert_array_equal(decode_pillow.raw_label(index_png(file), in_color=False), values)
    colors = decode_pillow.raw_label(file, in_color=True)
    assert colors.dtype == np.int32
    np.testing.assert_array_equal(colors, decode.raw_label(file, in_color=True))


@pytest.mark.parametrize("in_color", [False, True])
@pytest.mark.parametrize("kind", raw_files.labels_of_each_kind())
def test_labels_of_each_kind_become_the_ids_of_a_table(kind, in_color):
    """Eagerly and in a graph, in which their height and width are not known."""
    file, values = raw_files.labels_of_each_kind()[kind]
    if in_color:
        values = np.dot(decode_pillow.image(file).astype(int), [2**16, 2**8, 1])
    else:
        file = index_png(file)
    ids = np.random.default_rng(0).integers(0, 256, 2 ** (24 if in_color else 16), np.uint8)
    table = dataclasses.replace(label_map("gta5", label_space("cityscapes19")), table=ids)
    for found in (
        decode_pillow.label(file, table), decode.label(file, table),
        tf.function(lambda file: decode.label(file, table))(tf.constant(file)),
    ):  # fmt: skip
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, ids[values])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("row_filter", range(5), ids=["none", "left", "up", "mean", "paeth"])
def test_labels_of_16_bits_keep_both_bytes_however_their_rows_are_written(channels, row_filter):
    values = np.random.default_rng(row_filter).integers(0, 65536, (7, 5, channels)).astype(np.uint16)
    file = png16(values, row_filter)
    np.testing.assert_array_equal(decode_pillow.raw_label(file, in_color=False), values[..., 0])
    np.testing.assert_array_equal(decode.raw_label(file, in_color=False), values[..., 0])
    np.testing.assert_array_equal(decode_pillow.image(file), decode.image(file))


def png16(values: np.ndarray, row_filter: int) -> bytes:
    """A PNG of uint16 [height, width, channels] whose rows are written with one filter (PNG specification, 9.2)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    size = 2 * channels
    rows = values.astype(">u2").reshape(height, -1).view(np.uint8).reshape(height, -1).astype(int)
    padded = np.pad(rows, ((1, 0), (size, 0)))
    left, up, corner = padded[1:, :-size], padded[:-1, size:], padded[:-1, :-size]
    guess = left + up - corner
    distances = np.stack([abs(guess - left), abs(guess - up), abs(guess - corner)])
    paeth = np.choose(distances.argmin(0), [left, up, corner])
    filtered = ((rows - [0 * rows, left, up, (left + up) // 2, paeth][row_filter]) % 256).astype(np.uint8)
    data = zlib.compress(b"".join(bytes([row_filter]) + row.tobytes() for row in filtered))
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_other_sizes_have_tensorflows_pixels(method):
    sizes = np.random.default_rng(0).integers(1, 150, (12, 4)).tolist()
    for height, width, *size in [*sizes, [60, 80, 30, 40], [60, 80, 60, 33], [31, 17, 64, 17]]:
        pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8)
        expected = decode.resized(tf.constant(pixels), tuple(size), method).numpy()
        np.testing.assert_array_equal(decode_pillow.resized(pixels, tuple(size), method), expected)


@pytest.fixture(scope="module")
def synthia(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthia")
    fixtures.write_synthia(root / "raw", 3, SIZE)
    return root, prepare("synthia", data_dir=str(root / "data"), raw_dir=str(root / "raw"))


def test_prepared_records_are_those_that_tfds_reads(synthia):
    _, folder = synthia
    records, expected = Prepared(folder).records("train"), raw_files.stored(folder, "synthia", "train")
    assert [dict(record) for record in records] == expected and len(expected) == 3


@pytest.mark.parametrize("other", [b"\x0a\x05abc", b"\x08\x01", b"\xff", b""])
def test_what_is_no_record_is_refused(other):
    with pytest.raises(ValueError, match="no example of a prepared data set"):
        parse_example(other)


def test_batches_are_the_same_with_tensorflow_and_without(synthia, monkeypatch):
    root, _ = synthia
    meaning = label_map("synthia", label_space("synthia16"))

    def batches(has_tensorflow: bool) -> list[dict]:
        monkeypatch.setattr(pipeline, "has_tensorflow", lambda: has_tensorflow)
        source = pipeline.TfdsSource("synthia", "train", data_dir=str(root / "data"), image_size=(32, 80),
                                     label_map=meaning, threads=2)  # fmt: skip
        endless = source.training_batches(2, seed=1, labels=True)
        scored, held = source.scored_batches(2), source.to_memory(labels=True, own_labels=True)
        return [*itertools.islice(endless, 5), *source.ordered_batches(2, labels=True), *scored,
                *held.scored_batches(2)]  # fmt: skip

    for one, other in zip(batches(False), batches(True), strict=True):
        assert one.keys() == other.keys() >= {"image", "label", "record"}
        for key in one:
            assert one[key].dtype == other[key].dtype
            np.testing.assert_array_equal(one[key], other[key])


def test_labels_are_scored_at_their_own_sizes_from_disk_and_from_memory(tmp_path, monkeypatch):
    truth = fixtures.write_gta5(tmp_path / "raw", 3, SIZE, odd_sizes=True)
    prepare("gta5", data_dir=str(tmp_path / "data"), raw_dir=str(tmp_path / "raw"))
    expected = [label for _, _, label in truth]
    expected[1] = expected[1][::2, ::2]  # as it is stored
    meaning = label_map("gta5", label_space("cityscapes19"))
    for has_tensorflow in (True, False):
        monkeypatch.setattr(pipeline, "has_tensorflow", lambda has=has_tensorflow: has)
        source = pipeline.TfdsSource("gta5", "train", data_dir=str(tmp_path / "data"), image_size=(32, 80),
                                     label_map=meaning, threads=2)  # fmt: skip
        for opened in (source, source.to_memory(labels=True, own_labels=True)):
            batches = list(opened.scored_batches(2))
            assert [batch["image"].shape for batch in batches] == [(2, 32, 80, 3)] * 2
            assert [batch["record"].tolist() for batch in batches] == [[0, 1], [2, -1]]
            for i, label in enumerate(expected):
                held, (height, width) = (batches[i // 2][key][i % 2] for key in ("label", "label_size"))
                assert (height, width) == label.shape
                assert set(held[height:].ravel()) | set(held[:, width:].ravel()) <= {IGNORE}
                np.testing.assert_array_equal(held[:height, :width], label)


def test_preparing_imports_no_tensorflow(tmp_path):
    """It would be two thirds of the memory that preparing takes."""
    fixtures.write_gta5(tmp_path / "raw", 2)
    script = (
        "import sys; from proda_jax.data_prep.prepare import prepare; "
        "prepare('gta5', data_dir=sys.argv[1], raw_dir=sys.argv[2]); print('tensorflow' in sys.modules)"
    )
    folders = [str(tmp_path / name) for name in ("data", "raw")]
    command = [sys.executable, "-c", script, *folders]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0].startswith("prepared gta5") and said[-1] == "False"

"""What all TFDS builders of this project share: encoded files stored as they are, in order, with their names."""

import collections
import dataclasses
import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8\xff"
_GREY, _RGB, _PALETTE, _RGBA = 0, 2, 3, 6  # colour types in a PNG header


@dataclasses.dataclass(frozen=True)
class Record:
    """One example of a split.

    Attributes:
      name: unique within the split.
      image: image file (or, for rendered data, what to render).
      label: label file, None where the archive has none.
    """

    name: str
    image: Any
    label: Any = None


class LayoutError(ValueError):
    """A raw folder does not look as its archive does."""


class StreetBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base of the builders: a subclass lists the records of each split, and reads them if they are no files."""

    VERSION = tfds.core.Version("1.0.0")
    LAYOUT = ""  # expected layout of the raw folder, for error messages

    def __init__(self, *, raw_dir: str | None = None, **kwargs):
        """Makes the builder.

        Args:
          raw_dir: folder into which the data set's archives were unpacked.
          **kwargs: of `tfds.core.GeneratorBasedBuilder`.
        """
        self.raw_dir = epath.Path(raw_dir).expanduser().resolve() if raw_dir else None
        super().__init__(**kwargs)

    def splits(self) -> dict[str, Sequence[Record]]:
        """The records of each split, in order; all labelled or none."""
        raise NotImplementedError

    def read(self, record: Record) -> tuple[bytes, bytes]:
        """Encoded image and label of a record; the label is empty where there is none."""
        label = index_png(record.label) if record.label else b""
        return _image_file(record.image), label

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.Tensor(shape=(), dtype=np.object_),  # PNG of raw values; Image would demand one
            "name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )  # fmt: skip

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        splits = {name: records for name, records in self.splits().items() if records}
        if not splits:
            raise self.layout_error("no images")
        for name, records in splits.items():
            self._check(name, records)
        self.info.metadata["names"] = {name: [r.name for r in records] for name, records in splits.items()}
        self.info.metadata["raw_dir"] = str(self.raw_dir) if self.raw_dir else None
        self.info.metadata["labelled"] = {name: records[0].label is not None for name, records in splits.items()}
        return {name: self._generate_examples(records) for name, records in splits.items()}

    def _check(self, split: str, records: Sequence[Record]) -> None:
        missing = [record.name for record in records if record.label is None]
        if 0 < len(missing) < len(records):
            raise self.layout_error(f"split {split} has no label for {len(missing)} of {len(records)} images, "
                                    f"the first being {missing[0]}")  # fmt: skip
        names = collections.Counter(record.name for record in records).most_common(1)
        if names[0][1] > 1:
            raise self.layout_error(f"split {split} has {names[0][1]} images named {names[0][0]}")

    def _generate_examples(self, records: Sequence[Record]) -> Iterator[tuple[int, dict]]:
        for number, record in enumerate(records):
            image, label = self.read(record)
            yield number, {"image": image, "label": label, "name": record.name}

    def files(self, *parts: str, suffixes: tuple[str, ...] = (".png",)) -> list[epath.Path]:
        """Image files in a folder of the archive, sorted; none where there is no such folder."""
        return [path for path in self.entries(*parts) if path.suffix.lower() in suffixes]

    def entries(self, *parts: str) -> list[epath.Path]:
        """What lies in a folder of the archive, sorted; nothing where there is no such folder."""
        if self.raw_dir is None:
            raise ValueError(f"{self.name} is prepared from files: pass raw_dir, a folder with {self.LAYOUT}")
        folder = self.raw_dir.joinpath(*parts)
        return sorted(folder.iterdir()) if folder.exists() else []

    def pairs(self, images: str, labels: str, suffixes: tuple[str, ...] = (".png",)) -> list[Record]:
        """Records of a folder of images and the labels of the same name in another folder."""
        known = {path.stem: path for path in self.files(*labels.split("/"))}
        files = self.files(*images.split("/"), suffixes=suffixes)
        return [Record(path.stem, path, known.get(path.stem)) for path in files]

    def labelled_pairs(self, images: str, labels: str) -> list[Record]:
        """The same for a data set that is of no use without labels."""
        records = self.pairs(images, labels)
        if records and all(record.label is None for record in records):
            raise self.layout_error(f"{images} has {len(records)} images, but {labels} has no label for any of them")
        return records

    def layout_error(self, found: str) -> LayoutError:
        """The error for a raw folder that is empty or holds something else."""
        here = "the folder holds " + (", ".join(path.name for path in self.entries()[:8]) or "nothing")
        if not self.raw_dir.exists():
            here = "there is no such folder"
        return LayoutError(f"{self.raw_dir} does not look like {self.name}: {found}; expected {self.LAYOUT}; {here}")


def _image_file(path: epath.Path) -> bytes:
    """An image file as it is, if it is one and complete."""
    encoded = path.read_bytes()
    if not encoded.startswith((_PNG_MAGIC, _JPEG_MAGIC)):
        raise ValueError(f"image file {path} is neither a PNG nor a JPEG file")
    _check_complete(path, encoded)
    return encoded


def _check_complete(path: epath.Path, encoded: bytes) -> None:
    if encoded.startswith(_PNG_MAGIC) and b"IEND" not in encoded[-64:]:
        raise ValueError(f"PNG file {path} is cut off after {len(encoded)} bytes: copy or unpack it again")


def index_png(path: epath.Path) -> bytes:
    """A label file as a PNG whose pixel values (first channel) are the raw label values.

    Decoders replace the values of a palette PNG by the colours of its palette. Such a file is turned into a grey PNG
    of its indices, by changing the header alone where the file has one byte a pixel.

    Raises:
      ValueError: the file is no complete PNG, or it holds colours instead of class values.
    """
    png = path.read_bytes()
    if not png.startswith(_PNG_MAGIC):
        raise ValueError(f"label file {path} is not a PNG file: labels are read from PNG files only")
    _check_complete(path, png)
    depth, color_type = png[24], png[25]
    if color_type in (_RGB, _RGBA) and depth == 8:
        raise ValueError(f"label file {path} is an image of colours: expected one channel of class values")
    if color_type == _PALETTE and depth == 8:
        return _with_header(png, bytes([depth, _GREY]))
    if depth < 8:
        pixels = Image.open(io.BytesIO(png))
        if color_type == _PALETTE:
            return encode_png(np.asarray(pixels))
        return encode_png(np.asarray(pixels.convert("L")) // (255 // (2**depth - 1)))  # Pillow spreads them over 0..255
    return png


def _with_header(png: bytes, depth_and_color: bytes) -> bytes:
    """The PNG with another depth and colour type, and without the chunks that belong to a palette."""
    header = b"IHDR" + png[16:24] + depth_and_color + png[26:29]
    chunks, position = [png[:12] + header + struct.pack(">I", zlib.crc32(header))], 33
    while position < len(png):
        size = struct.unpack(">I", png[position : position + 4])[0] + 12
        if png[position + 4 : position + 8] not in (b"PLTE", b"tRNS", b"bKGD", b"hIST", b"sBIT"):
            chunks.append(png[position : position + size])
        position += size
    return b"".join(chunks)


def encode_png(pixels: np.ndarray) -> bytes:
    """An 8-bit PNG of [height, width] or [height, width, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()

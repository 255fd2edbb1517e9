"""TFDS builder of a user's own images: one folder a split, labels optional."""

from collections.abc import Sequence

from data_prep.base import Record, StreetBuilder


class Folder(StreetBuilder, skip_registration=True):
    """Each folder in the raw folder is a split of its name; label PNGs hold train ids, other values are ignored."""

    name = "folder"
    LAYOUT = "<split>/images/*.{png,jpg} and, where there are labels, <split>/labels/*.png of the same names"

    def splits(self) -> dict[str, Sequence[Record]]:
        """Records of every split."""
        return {
            path.name: self.pairs(f"{path.name}/images", f"{path.name}/labels", (".png", ".jpg", ".jpeg"))
            for path in self.entries()
            if path.is_dir()
        }

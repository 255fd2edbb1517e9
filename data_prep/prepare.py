"""Writes a data set in the form that training reads: `python -m data_prep.prepare --dataset=demo --data_dir=...`."""

import importlib

from absl import app, flags, logging

BUILDERS = {
    "demo": ("data_prep.demo", "Demo"),
    "camvid": ("data_prep.camvid", "CamVid"),
    "gta5": ("data_prep.gta5", "Gta5"),
    "synthia": ("data_prep.synthia", "Synthia"),
    "cityscapes": ("data_prep.cityscapes", "Cityscapes"),
    "folder": ("data_prep.folder", "Folder"),
}

_DATASET = flags.DEFINE_enum("dataset", None, list(BUILDERS), "Data set to prepare.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder for prepared data sets.")
_RAW_DIR = flags.DEFINE_string("raw_dir", None, "Folder with the data set's unpacked archives; not needed for demo.")


def prepare(dataset: str, *, data_dir: str, raw_dir: str | None = None) -> None:
    """Prepares a data set, unless that was done before; an interrupted preparation starts over.

    Args:
      dataset: one of `BUILDERS`.
      data_dir: folder for prepared data sets.
      raw_dir: folder with the data set's unpacked archives.

    Raises:
      ValueError: there is no such data set, the raw folder is not laid out as its archive is, or the data set was
        prepared there from another raw folder.
    """
    if dataset not in BUILDERS:
        raise ValueError(f"data set {dataset!r} does not exist; choose one of {', '.join(BUILDERS)}")
    module, name = BUILDERS[dataset]
    builder_class = getattr(importlib.import_module(module), name)
    builder = builder_class(data_dir=data_dir, raw_dir=raw_dir, file_format="array_record")
    if builder.is_prepared():
        origin = builder.info.metadata.get("raw_dir")
        if origin and raw_dir and origin != str(builder.raw_dir):
            raise ValueError(
                f"{builder.data_dir} was prepared from {origin}, not from {builder.raw_dir}: name another data_dir"
            )
        logging.info("%s is already prepared in %s", dataset, builder.data_dir)
        return
    logging.info("preparing %s in %s", dataset, builder.data_dir)
    builder.download_and_prepare()
    counts = ", ".join(f"{split} {info.num_examples}" for split, info in builder.info.splits.items())
    logging.info("prepared %s: %s", dataset, counts)


def main(_: list[str]) -> None:
    """Runs `prepare` with the flags."""
    prepare(_DATASET.value, data_dir=_DATA_DIR.value, raw_dir=_RAW_DIR.value)


if __name__ == "__main__":
    flags.mark_flags_as_required(["dataset", "data_dir"])
    app.run(main)

"""Writes a data set in the form that training reads, and shows what it holds.

    python -m data_prep.prepare --dataset=gta5 --raw_dir=<folder> --data_dir=<prepared>
    python -m data_prep.prepare --config=configs/custom.py --data_dir=<prepared>     all that a configuration names

An interrupted preparation goes on where it stopped when the same command is given again.
"""

import contextlib
import importlib
import io
import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets with a page of notes
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import ml_collections
from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from proda_jax.data.checks import ROLES, check_data, check_given, data_sets, first_of, meaning_of
from proda_jax.data.label_spaces import FOLDER, label_map, own_space
from proda_jax.data.pixels import check_range
from proda_jax.data.prepared import Prepared
from proda_jax.data_prep import carla, contact_sheet
from proda_jax.data_prep.base import DataSet
from proda_jax.data_prep.changes import Copy
from proda_jax.data_prep.examples import Checks
from proda_jax.data_prep.presets import PRESETS, Preset
from proda_jax.data_prep.summary import Summary
from proda_jax.data_prep.suspicions import suspicions
from proda_jax.system import command, configurations, paths
from proda_jax.system.extras import need
from proda_jax.system.files import alone, check_writable, is_remote
from proda_jax.system.progress import say

BEFORE, UPDATE = ".before", ".update"  # end the names of the folders of an update
DATA_SETS = {
    "demo": ("proda_jax.data_prep.demo", "Demo"),
    "demo_360x480": ("proda_jax.data_prep.demo", "DemoForPhotographs"),
    "camvid": ("proda_jax.data_prep.camvid", "CamVid"),
    "gta5": ("proda_jax.data_prep.gta5", "Gta5"),
    "synthia": ("proda_jax.data_prep.synthia", "Synthia"),
    "cityscapes": ("proda_jax.data_prep.cityscapes", "Cityscapes"),
    "folder": ("proda_jax.data_prep.folder", "Folder"),
    "potsdam": ("proda_jax.data_prep.isprs", "Potsdam"),
    "vaihingen": ("proda_jax.data_prep.isprs", "Vaihingen"),
}
KNOWN = (*DATA_SETS, *PRESETS)


def prepare(
    dataset: str, *, data_dir: str, checks: Checks | None = None, update: bool = False, **files: Any
) -> epath.Path:
    """Prepares a data set, unless that was done before; raw files that changed since are noticed.

    Args:
      dataset: one of `KNOWN`.
      data_dir: folder for prepared data sets; may be in a bucket.
      checks: what is demanded of the files, and how they are stored; by default, in the data set's own label space.
      update: whether a copy whose raw files changed is brought up to date, and not only said to be of before.
      **files: raw_dir, the folder with the data set's unpacked archives, or split, images, labels and file_list of
        'folder'; skip_unlabelled.

    Returns:
      The folder of the prepared data set, with `summary.json` and `contact_sheet.png`.

    Raises:
      ValueError: there is no such data set, the raw files are not laid out as expected or cannot be used, or the data
        set was prepared there from other files or otherwise.
    """
    if dataset not in KNOWN:
        raise ValueError(f"data set {dataset!r} does not exist; choose one of {', '.join(KNOWN)}")
    if checks is None:
        checks = Checks(label_map(dataset, own_space(dataset)))
    data_dir = paths.expanded(data_dir)
    if dataset in PRESETS:
        data_set = Preset(dataset, checks=checks, **files)
    else:
        module, name = DATA_SETS[dataset]
        data_set = getattr(importlib.import_module(module), name)(checks=checks, **files)
    folder = data_set.folder(epath.Path(data_dir))
    lock = epath.Path(data_dir) / f"{dataset}.lock"
    with alone(lock, f"another process prepares {dataset}: waiting", wait=True):
        before = folder.with_name(f"{folder.name}{BEFORE}")
        if before.exists() and not folder.exists():  # killed between two names
            before.rename(folder)
        done = folder.exists()
        if done:
            done = look_again(folder, data_set, update=update)
        else:
            check_writable(data_dir, "data_dir")
            write(data_set, data_dir)
        sheet = contact_sheet.refresh(folder, checks.label_map)
        if not done:
            print(f"prepared {dataset} in {folder}; have a look at {sheet}")
    unmapped = Summary.load(folder).unmapped(checks.label_map)
    if checks.strict and unmapped:
        raise ValueError(f"{folder} holds label values without meaning, {dict(unmapped)}: give them a class in "
                         "label_values, or 'ignored', or set strict to False")  # fmt: skip
    return folder


def look_again(folder: epath.Path, data_set: DataSet, *, update: bool) -> bool:
    """Compares a prepared copy with its raw files, if they are still there.

    Returns:
      Whether it is as it was; otherwise it has been brought up to date.

    Raises:
      ValueError: it was made from other files, or otherwise, than it would be now.
    """
    if is_remote(data_set.raw_dir or "") and not update:  # where looking at every file takes long
        check_origin(folder, data_set)
        return True
    copy = Copy(folder, data_set)
    if origin_differs(folder, data_set) and copy.adopt(data_set.origin):
        say(f"{folder}: its raw files have moved, and hold the same")
        return True
    check_origin(folder, data_set)
    changes = copy.changes(read=update)
    if not changes:
        return True
    if not update:
        say(f"{folder} is of before its raw files changed: {changes}. It is used as it is; python -m "
            "data_prep.prepare with the same settings brings it up to date")  # fmt: skip
        return True
    if copy.gone:
        say(f"{folder} is of before its raw files changed: {changes}. It is used as it is, as no raw files are left of "
            f"{', '.join(copy.gone)}: to prepare the others anew, delete it")  # fmt: skip
        return True
    say(f"{folder} is brought up to date: {changes}")
    _replace(folder, data_set, copy)
    return False


def _replace(folder: epath.Path, data_set: DataSet, copy: Copy) -> None:
    """Writes a copy anew beside the old one, with what is unchanged from that, and puts it in its place."""
    check_writable(folder.parent, "data_dir")
    aside, before = (folder.with_name(f"{folder.name}{end}") for end in (UPDATE, BEFORE))
    write(data_set, str(aside), copy.splits, copy.kept(data_set))
    folder.rename(before)
    data_set.folder(aside).rename(folder)
    for leftover in (before, aside):
        leftover.rmtree()


def write(data_set: DataSet, data_dir: str, *kept: Any) -> None:
    """Writes a data set with TFDS; `kept` are further arguments of `writing.Builder`.

    Without TFDS's announcement of a download, which there is not, and its warning of a folder not yet prepared.
    """
    need(f"preparing {data_set.name}", "train", "tensorflow_datasets", "importlib_resources")
    from proda_jax.data_prep.writing import Builder

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            Builder(data_set, data_dir, *kept).download_and_prepare()
    finally:
        logging.set_verbosity(verbosity)


def check_origin(folder: epath.Path, data_set: DataSet) -> None:
    """Refuses a prepared copy that was made from other files, or otherwise, than it would be now."""
    found, wanted = Prepared(folder).metadata.get("origin", {}), data_set.origin
    if differing := origin_differs(folder, data_set):
        key = differing[0]
        raise ValueError(f"{folder} was prepared with {key} = {found.get(key)}, not {wanted[key]}: name another "
                         "data_dir, or delete that folder")  # fmt: skip


def origin_differs(folder: epath.Path, data_set: DataSet) -> list[str]:
    """What of a prepared copy's origin is another now."""
    found, wanted = Prepared(folder).metadata.get("origin", {}), data_set.origin
    if wanted["raw_dir"] is None:  # the prepared copy is all there is
        wanted = wanted | {"raw_dir": found.get("raw_dir")}
    return [key for key in wanted if found.get(key) != wanted[key]]


def prepare_role(
    data: ml_collections.ConfigDict,
    role: str,
    data_dir: str,
    *,
    update: bool = False,
    wanted: ml_collections.ConfigDict | None = None,
) -> epath.Path:
    """Prepares one of the data sets that a configuration's `data` section names for a role.

    Args:
      data: the section.
      role: 'source', 'target' or 'validation'.
      data_dir: folder for prepared data sets.
      update: see `prepare`.
      wanted: which of the role's data sets; default: the first.
    """
    wanted = first_of(data, role) if wanted is None else wanted
    seen = check_range(wanted.get("value_range", ()), f"config.data.{role}.value_range")
    checks = Checks(meaning_of(data, wanted), data.strict, data.store_scale, seen)
    same = {other: [one for one in data_sets(data, other).values() if one.name == wanted.name] for other in ROLES}
    if wanted.name == FOLDER:
        files = {"split": wanted.split, "images": wanted.images, "labels": wanted.labels}
        files |= {"file_list": wanted.get("file_list"), "skip_unlabelled": wanted.get("skip_unlabelled", False)}
        files["no_images"] = {setting: one.labels for other in ROLES for setting, one in data_sets(data, other).items()
                              if one.name == FOLDER and one.labels}  # fmt: skip
        if role == "target":
            files["labelled"] = data.get("labelled_target")
    else:
        found = [one.raw_dir for one in same["target"] + same["source"]] if role == "validation" else []
        files = {"raw_dir": next(filter(None, [wanted.raw_dir, *found]), data.raw_dir)}
        # maybe other splits of one copy
        files["skip_unlabelled"] = any(one.get("skip_unlabelled", False) for found in same.values() for one in found)
    return prepare(wanted.name, data_dir=data_dir, checks=checks, update=update, **files)


def problems(
    data: ml_collections.ConfigDict, role: str, wanted: ml_collections.ConfigDict, folder: epath.Path, *, labels: bool
) -> list[str]:
    """What is suspicious of the split that a role uses, and which setting mends it; see `suspicions`.

    Args:
      data: the section.
      role: 'source', 'target' or 'validation'.
      wanted: the role's data set.
      folder: of the prepared data set.
      labels: whether its labels are used.
    """
    splits = Summary.load(folder).splits
    if not labels or wanted.split not in splits:  # which is refused where it is opened
        return []
    counts, allowed = splits[wanted.split], data.get("allow", ())
    if "carla_version" not in allowed and (wrong := carla.problem(wanted.name, counts.values)):
        return [wrong]
    return suspicions(counts, meaning_of(data, wanted), role, allowed)


def refusal(role: str, found: list[str]) -> ValueError:
    """The error for suspicious data of a role."""
    return ValueError(f"the {role} images are not what the settings say: " + "; besides, ".join(found))


def define_flags() -> None:
    """Flags of the command; not on import, since main.py has some of the same names."""
    names = [name for name in KNOWN if name != FOLDER]
    flags.DEFINE_enum("dataset", None, names, "Data set to prepare.")
    flags.DEFINE_string("raw_dir", None, "With --dataset: folder with its unpacked archives; not needed for demo.")
    flags.DEFINE_bool("strict", False, "With --dataset: refuse label values without meaning, instead of ignoring them.")
    flags.DEFINE_float("store_scale", 1.0, "With --dataset: share of width and height at which images are stored.")
    config_flags.DEFINE_config_file("config", None, "Configuration whose data sets are prepared, all of them.")
    configurations.accept_names("config")
    flags.DEFINE_string("data_dir", None, "Folder for prepared data sets.")
    flags.mark_flags_as_required(["data_dir"])


def main(arguments: list[str]) -> None:
    """Prepares what the flags name, and prints what it holds."""
    logging.set_verbosity(logging.WARNING)
    given = flags.FLAGS
    if len(arguments) > 1:
        raise app.UsageError(f"{arguments[1:]} is not understood: flags are written --flag=value, with an equals sign")
    if (given.dataset is None) == (given.config is None):
        raise app.UsageError("name either --dataset, or --config for what a configuration describes, such as your own "
                             "folders (configs/custom.py)")  # fmt: skip
    for name in ("raw_dir", "strict", "store_scale") if given.config is not None else ():
        if given[name].present:
            raise app.UsageError(f"--{name} goes with --dataset; with --config it is --config.data.{name}")
    if given.config is None:
        checks = Checks(label_map(given.dataset, own_space(given.dataset)), given.strict, given.store_scale)
        folder = prepare(given.dataset, data_dir=given.data_dir, checks=checks, raw_dir=given.raw_dir, update=True)
        prepared, splits = {folder: checks.label_map}, Summary.load(folder).splits
        found = {split: [wrong] for split, counts in splits.items()
                 if (wrong := carla.problem(given.dataset, counts.values))}  # fmt: skip
    else:
        check_given(given.config, config_flags.get_override_values(given["config"]))
        check_data(given.config)
        data = given.config.data
        prepared, found = {}, {}
        for role in ROLES:
            for setting, wanted in data_sets(data, role).items():
                folder = prepare_role(data, role, given.data_dir, update=True, wanted=wanted)
                prepared[folder] = meaning_of(data, wanted)
                found[setting.removeprefix("data.")] = problems(data, role, wanted, folder, labels=role != "target")
    for folder, meaning in prepared.items():
        print(Summary.load(folder).text(meaning))
    for role, wrong in found.items():
        if wrong:
            raise refusal(role, wrong)


def run() -> None:
    """The command, from its flags to its exit status."""
    define_flags()
    command.run(main, __name__)


if __name__ == "__main__":
    run()

"""Refuses impossible settings of the section `data`: classes, and the data set of each role; what its labels mean."""

import re
from collections.abc import Mapping

import ml_collections

from proda_jax.data.label_spaces import (
    CUSTOM,
    FOLDER,
    IGNORE,
    IGNORED,
    LABEL_SPACES,
    LabelMap,
    LabelSpace,
    all_datasets,
    datasets_in,
    is_color,
    label_map,
    label_space,
)
from proda_jax.system.refusals import choose, refuse

ROLES = ("source", "target", "validation")
NONE = "none"  # in place of a data set that there is not
USUAL_SHARE = 0.5  # of target images among the labelled ones of a step, where a few of them have labels
# what of data that look wrong may be meant to be so, see data.allow
ALLOWANCES = (
    "absent_classes", "ignored_pixels", "binary_masks", "values_from_one", "noisy_colors", "other_palettes",
    "label_shapes", "carla_version",
)  # fmt: skip


def data_sets(data: ml_collections.ConfigDict, role: str) -> dict[str, ml_collections.ConfigDict]:
    """The data sets of a role by the settings that name them; none where the role has none.

    {'data.source': section}, or of several {'data.source[0]': section, 'data.source[1]': section, ...}.
    """
    given = data[role]
    if isinstance(given, tuple | list):
        found = {f"data.{role}[{i}]": one for i, one in enumerate(given)}
    else:
        found = {} if given is None else {f"data.{role}": given}
    return {name: one for name, one in found.items() if one.name != NONE}


def first_of(data: ml_collections.ConfigDict, role: str) -> ml_collections.ConfigDict:
    """The first data set of a role that has one."""
    return next(iter(data_sets(data, role).values()))


def check_data(config: ml_collections.ConfigDict) -> None:
    """Checks the `data` section alone, which is all that preparing data needs."""
    data = config.data
    choose("data.loader", data.loader, ("tfds", "memory"))
    check_label_space(data)
    if not 0 < data.store_scale <= 1:
        refuse("data.store_scale", data.store_scale, "a share above 0, up to 1")
    for name in data.get("allow", ()):  # of which older configurations know nothing
        choose("data.allow", name, ALLOWANCES)
    if data.threads < 0:
        refuse("data.threads", data.threads, "0 (one for each core) or more")
    space = label_space(data.label_space, data.classes, data.colors)
    own = {}  # prepared copies are told apart by their names
    for role in ROLES:
        for setting, wanted in data_sets(data, role).items():
            check_data_set(wanted, setting, role, space)
            if wanted.name == FOLDER:
                if wanted.labels and wanted.labels == wanted.images:
                    refuse(f"{setting}.labels", wanted.labels, f"another folder than {setting}.images")
                files = tuple(wanted.get(key) for key in ("images", "labels", "file_list", "skip_unlabelled"))
                if own.setdefault(wanted.split, files) != files:
                    refuse(f"{setting}.split", wanted.split, "another name for each folder of your own")
    if not data_sets(data, "target"):
        refuse("data.target.name", NONE, "the images that are adapted to")
    check_shares(data)
    check_labelled_target(data)


def check_given(config: ml_collections.ConfigDict, given: Mapping[str, object]) -> None:
    """Refuses settings, given beside a configuration, of a data set that it does not have.

    Raises:
      ValueError: the setting, and how to have the data set.
    """
    for name, value in given.items():
        section, _, setting = name.rpartition(".")
        role = config.data.get(section.removeprefix("data."))
        absent = isinstance(role, ml_collections.ConfigDict) and role.get("name") == NONE
        if absent and setting != "name" and f"{section}.name" not in given:
            raise ValueError(f"config.{name} = {value!r} says something of a data set that this configuration does "
                             f"not have: add --config.{section}.name=folder, or another one's name")  # fmt: skip


def check_shares(data: ml_collections.ConfigDict) -> None:
    """Checks how often images of each of several data sets come."""
    for role in ROLES:
        several = data_sets(data, role)
        for setting, wanted in several.items():
            share = wanted.get("share", 1.0)
            if (len(several) == 1 or role == "validation") and share != 1.0:
                refuse(f"{setting}.share", share, "1.0, as it acts beside other sources, or other targets, alone")
            if not share > 0:
                refuse(f"{setting}.share", share, "a positive number; a data set that is not wanted is left out")
        named = [(one.name, one.split) for one in several.values()]
        for setting, one in zip(several, named, strict=True):
            if named.count(one) > 1:
                refuse(f"{setting}.split", one[1], f"each data set of a role once, not {', '.join(one)} twice")


def check_labelled_target(data: ml_collections.ConfigDict) -> None:
    """Checks which target images may be learnt from with their labels, and how often."""
    few, share = data.get("labelled_target"), data.get("labelled_target_share", USUAL_SHARE)
    if few is None or not data_sets(data, "source"):
        if share != USUAL_SHARE:
            beside = "data.labelled_target alone" if few is None else "a source alone"
            refuse("data.labelled_target_share", share, f"{USUAL_SHARE}, as it acts beside {beside}")
    elif not 0 < share < 1:
        refuse("data.labelled_target_share", share, "a share of the labelled images, above 0 and below 1; without a "
               "source (data.source.name=none) all of them are of the target")  # fmt: skip
    sizes = {}  # of images that share batches
    for role in ("source", "target"):
        sizes = sizes if few is not None else {}
        for setting, wanted in data_sets(data, role).items():
            sizes[setting] = tuple(wanted.image_size)
        if len(set(sizes.values())) > 1:
            first, last = list(sizes)[0], list(sizes)[-1]
            refuse(f"{last}.image_size", sizes[last], f"{sizes[first]}, as {first} has: a step learns from images of "
                   "both together")  # fmt: skip
    targets = data_sets(data, "target") if few is not None else {}
    if targets and all(wanted.name == FOLDER and not wanted.labels for wanted in targets.values()):
        setting, wanted = next(iter(targets.items()))
        refuse(f"{setting}.labels", wanted.labels, "where the labels are of the images in data.labelled_target")


def check_label_space(data: ml_collections.ConfigDict) -> None:
    """Checks the classes and their colours."""
    choose("data.label_space", data.label_space, (*LABEL_SPACES, CUSTOM))
    if data.label_space == CUSTOM and len(data.classes) == 1:
        refuse("data.classes", tuple(data.classes), "at least two: what is not the object is a class, too, such as "
               f"('background', {data.classes[0]!r})")  # fmt: skip
    if data.label_space == CUSTOM and not 2 <= len(set(data.classes)) == len(data.classes) < IGNORE:
        refuse("data.classes", tuple(data.classes), f"2 to {IGNORE - 1} different names of classes")
    if wrong := [name for name in data.classes if not (isinstance(name, str) and name.strip() and name.isprintable())]:
        refuse("data.classes", tuple(data.classes), f"names of letters in one line, not {wrong[0]!r}")
    if IGNORED in data.classes:
        refuse("data.classes", tuple(data.classes), f"no class called {IGNORED!r}, which is said of values without one")
    if data.label_space != CUSTOM and data.classes:
        refuse("data.label_space", data.label_space, f"{CUSTOM!r}, as data.classes names classes")
    if data.colors and len(data.colors) != len(data.classes):
        refuse("data.colors", tuple(data.colors), f"a colour for each of the {len(data.classes)} classes, or none")
    if wrong := [color for color in data.colors if not is_color(color)]:
        refuse("data.colors", tuple(data.colors), "(red, green, blue) of each class, whole numbers from 0 to 255, not "
               f"{wrong[0]!r}")  # fmt: skip


def check_data_set(wanted: ml_collections.ConfigDict, setting: str, role: str, space: LabelSpace) -> None:
    """Checks one of a role's data sets, which `setting` names."""
    # with values of its own for each class, any data set fits into any label space
    known = all_datasets() if wanted.label_values else datasets_in(space.name)
    choose(f"{setting}.name", wanted.name, known)
    if wanted.name == FOLDER:
        if not wanted.images:
            refuse(f"{setting}.images", wanted.images, "a folder of images")
        if not re.fullmatch(r"[A-Za-z]\w*", wanted.split) or wanted.split == "all":  # which TFDS keeps for itself
            refuse(f"{setting}.split", wanted.split, "a name of letters, digits and underscores, other than 'all'")
        if wanted.raw_dir is not None:
            refuse(f"{setting}.raw_dir", wanted.raw_dir, f"None, as {setting}.images says where the files are")
        if not wanted.labels and role != "target":
            refuse(f"{setting}.labels", wanted.labels, "a folder of labels, one for each image")
        for key in ("images", "labels"):
            if not all(isinstance(text, str) and text for text in _several(wanted[key])):
                refuse(f"{setting}.{key}", wanted[key], "a folder or a pattern, or several: ('a', 'b')")
        if len(_several(wanted.labels)) not in (0, 1, len(_several(wanted.images))):
            refuse(f"{setting}.labels", wanted.labels, "one folder of labels for all images, or one for each")
    for key in ("images", "labels", "file_list"):
        if wanted.get(key) and wanted.name != FOLDER:
            refuse(f"{setting}.{key}", wanted[key], f"None, as {setting}.name is not {FOLDER!r}")
    if wanted.get("skip_unlabelled") and wanted.name == FOLDER and not wanted.labels:
        refuse(f"{setting}.skip_unlabelled", True, "False, as there are no labels")
    seen = tuple(wanted.get("value_range") or ())
    if seen and not (len(seen) == 2 and seen[0] < seen[1]):
        refuse(f"{setting}.value_range", seen, "the values that are black and white, as in (0, 4095)")
    tolerance = wanted.get("color_tolerance", 0)
    if not 0 <= tolerance <= 127:
        refuse(f"{setting}.color_tolerance", tolerance, "0 to 127, the most that a channel may be off")
    try:
        meaning = label_map(wanted.name, space, wanted.label_values)
    except ValueError as error:
        refuse(f"{setting}.label_values", tuple(wanted.label_values), str(error))
    if tolerance and not meaning.in_color:
        refuse(f"{setting}.color_tolerance", tolerance, "0, as label_values names no colours")


def _several(given: object) -> tuple:
    return () if given is None else tuple(given) if isinstance(given, tuple | list) else (given,)


def meaning_of(data: ml_collections.ConfigDict, wanted: ml_collections.ConfigDict) -> LabelMap:
    """What the labels of a data set mean, by the settings of the section `data`."""
    space = label_space(data.label_space, data.classes, data.colors)
    return label_map(wanted.name, space, wanted.label_values, wanted.get("color_tolerance", 0))

"""Presets of public data sets: where their files lie, unpacked or in archives, and what their labels mean."""

import concurrent.futures
import io
import pathlib
import re
import tarfile
import zipfile

import command
import numpy as np
import pytest
from etils import epath
from PIL import Image
from raw_files import encoded, noise, png

from proda_jax.configs import base
from proda_jax.data.label_spaces import IGNORE, LABEL_SPACES, label_map, own_space
from proda_jax.data.pipeline import TfdsSource
from proda_jax.data_prep import carla, isprs
from proda_jax.data_prep.archives import members
from proda_jax.data_prep.base import LayoutError
from proda_jax.data_prep.examples import Checks
from proda_jax.data_prep.prepare import prepare, prepare_role, problems
from proda_jax.data_prep.presets import PRESETS, Preset
from proda_jax.data_prep.records import states

CLASSES = LABEL_SPACES["cityscapes19"].classes
# data set: (split, name, image, label, raw values, their classes by hand)
FILES = {
    "acdc": ("night_val", "GOPR0356/GOPR0356_frame_1", "rgb_anon/night/val/GOPR0356/GOPR0356_frame_1_rgb_anon.png",
             "gt/night/val/GOPR0356/GOPR0356_frame_1_gt_labelTrainIds.png", (0, 18, 255), ("road", "bicycle", None)),
    "dark_zurich": ("val", "GOPR0356/GOPR0356_frame_1", "rgb_anon/val/night/GOPR0356/GOPR0356_frame_1_rgb_anon.png",
                    "gt/val/night/GOPR0356/GOPR0356_frame_1_gt_labelTrainIds.png", (13, 255), ("car", None)),
    "nighttime_driving": ("test", "0_1", "leftImg8bit/test/night/0_1_leftImg8bit.png",
                          "gtCoarse_daytime_trainvaltest/test/night/0_1_gtCoarse_labelTrainIds.png", (10,), ("sky",)),
    "bdd100k": ("train", "a-b", "bdd100k/images/10k/train/a-b.jpg", "bdd100k/labels/sem_seg/masks/train/a-b.png",
                (2, 11, 255), ("building", "person", None)),
    "mapillary_1_2": ("train", "x", "training/images/x.jpg", "training/v1.2/labels/x.png", (13, 24, 41, 2, 22, 65, 23),
                      ("road", "road", "road", "sidewalk", "rider", None, None)),
    "mapillary_2_0": ("val", "x", "validation/images/x.jpg", "validation/v2.0/labels/x.png",
                      (21, 35, 45, 24, 61, 90, 108, 123), ("road", "road", None, "sidewalk", "sky", "traffic light",
                                                           "car", None)),
    "idd": ("val", "201/frame0", "leftImg8bit/val/201/frame0_leftImg8bit.png",
            "gtFine/val/201/frame0_gtFine_labelids.png", (0, 5, 11, 33, 9),
            ("road", "terrain", None, "sky", "motorcycle")),
    "idd_level3": ("val", "201/frame0", "leftImg8bit/val/201/frame0_leftImg8bit.png",
                   "gtFine/val/201/frame0_gtFine_labellevel3Ids.png",
                   (0, 1, 2, 3, 4, 8, 12, 13, 14, 20, 22, 24, 25, 6, 255),
                   ("road", None, "sidewalk", "terrain", "person", None, None, None, "wall", "pole", "building",
                    "vegetation", "sky", "motorcycle", None)),
    "idd_cs_train_ids": ("val", "201/frame0", "leftImg8bit/val/201/frame0_leftImg8bit.png",
                         "gtFine/val/201/frame0_gtFine_labelcsTrainIds.png", (0, 9, 16, 18, 255),
                         ("road", "terrain", "train", "bicycle", None)),
    "urbansyn": ("train", "0001", "rgb/rgb_0001.png", "ss/ss_0001.png", (0, 16, 19), ("road", "train", None)),
    "synscapes": ("train", "12", "img/rgb-2k/12.png", "img/class/12.png", (7, 33, 3), ("road", "bicycle", None)),
    "viper": ("val", "001/001_00001", "val/img/001/001_00001.jpg", "val/cls/001/001_00001.png", (3, 8, 25, 10),
              ("road", "vegetation", "car", None)),
    "virtual_kitti_2": ("deg_15_left", "01/Camera_0/00000", "Scene01/15-deg-left/frames/rgb/Camera_0/rgb_00000.jpg",
                        "Scene01/15-deg-left/frames/classSegmentation/Camera_0/classgt_00000.png",
                        ((100, 60, 100), (0, 139, 139), (80, 80, 80)), ("road", "car", None)),
    "carla_0_9_5": ("train", "a/1", "rgb/a/1.png", "semantic/a/1.png", (7, 1), ("road", "building")),
    "carla_0_9_6": ("train", "a/1", "rgb/a/1.png", "semantic/a/1.png", (7, 6, 13, 18), ("road", "road", "sky",
                                                                                   "traffic light")),
    "carla_0_9_14": ("train", "a/1", "rgb/a/1.png", "semantic/a/1.png", (1, 11, 24, 7), ("road", "sky", "road",
                                                                                   "traffic light")),
    "foggy_cityscapes": ("val_beta_0_02", "ulm/ulm_1",
                         "leftImg8bit_foggy/val/ulm/ulm_1_leftImg8bit_foggy_beta_0.02.png",
                         "gtFine/val/ulm/ulm_1_gtFine_labelIds.png", (7, 0), ("road", None)),
    "muses": ("val", "fog/day/REC1_frame_2", "frame_camera/val/fog/day/REC1_frame_2_frame_camera.png",
              "gt_semantic/val/fog/day/REC1_frame_2_gt_labelTrainIds.png", (8, 255), ("vegetation", None)),
    "loveda": ("rural_val", "9", "Val/Rural/images_png/9.png", "Val/Rural/masks_png/9.png", (0, 1, 7),
               (None, "background", "agriculture")),
}  # fmt: skip
STRANGE = 77  # a value of none of them


def meaning(name: str):
    return label_map(name, own_space(name))


def raw(name: str, *more: int) -> dict[str, bytes]:
    """The files of an image whose label has the values of `FILES`, and more, each in a row of its own."""
    _, _, image, label, values, _ = FILES[name]
    rows = np.array([*values, *more], np.uint8).repeat(8, 0).reshape(len(values) + len(more), 8, -1)
    if name.startswith("carla"):  # as the simulator saves them
        rows = np.concatenate([rows, noise(*rows.shape[:2], 2)], -1)
    found = png(rows[..., 0] if rows.shape[-1] == 1 else rows)
    pixels = noise(*rows.shape[:2], 3)
    return {image: encoded(Image.fromarray(pixels), "JPEG") if image.endswith("jpg") else png(pixels), label: found}


def unpacked(root: pathlib.Path, files: dict[str, bytes]) -> str:
    for place, held in files.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(held)
    return str(root)


def packed(root: pathlib.Path, files: dict[str, bytes]) -> str:
    """Images and labels in archives of their own, with what a system puts into some."""
    root.mkdir(parents=True)
    for number, (place, held) in enumerate(files.items()):
        with zipfile.ZipFile(root / f"{number}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(place, held)
            archive.writestr(f"__MACOSX/{place}", b"note")
    return str(root)


def packed_in_tar(root: pathlib.Path, files: dict[str, bytes]) -> str:
    """The same in tar archives, as `tar -cf 0.tar .` makes them."""
    root.mkdir(parents=True)
    for number, (place, held) in enumerate(files.items()):
        with tarfile.open(root / f"{number}.tar", "w") as archive:
            folders = [str(folder) for folder in pathlib.PurePath(place).parents]
            for folder in reversed(folders):
                info = tarfile.TarInfo("." if folder == "." else f"./{folder}")
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            for name, contents in ((f"./{place}", held), (f"./__MACOSX/{place}", b"note"), ("./read me.txt", b"")):
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(contents), 1_580_000_000
                archive.addfile(info, io.BytesIO(contents))
    return str(root)


@pytest.mark.parametrize("put", [unpacked, packed, packed_in_tar])
@pytest.mark.parametrize("name", PRESETS)
def test_files_are_found_and_values_mean_what_was_written_down_by_hand(tmp_path, name, put):
    split, called, *_, values, classes = FILES[name]
    data_set = Preset(name, checks=Checks(meaning(name)), raw_dir=put(tmp_path / "raw", raw(name)))
    ((found_split, (record,)),) = data_set.records().items()
    assert (found_split, record.name) == (split, called)
    example = data_set.example(record)
    space = own_space(name).classes
    for value, cls in zip(values, classes, strict=True):
        number = value if isinstance(value, int) else value[0] * 65536 + value[1] * 256 + value[2]
        assert example.counts.values[number] == 8
        expected = IGNORE if cls is None else space.index(cls)
        assert meaning(name).table[number] == expected and meaning(name).known[number]


def test_labels_of_another_kind_of_ids_are_not_taken_and_their_name_is_said(tmp_path):
    data_set = Preset("idd", checks=Checks(meaning("idd")), raw_dir=unpacked(tmp_path, raw("idd_level3")))
    ((_, (record,)),) = data_set.records().items()
    assert record.label is None
    assert data_set.notes == ["val has no labels: there is no gtFine/val/*/*_gtFine_labelids.png; those of idd_level3 "
                              "are there"]  # fmt: skip


def test_every_preset_has_its_row_here():
    assert set(FILES) == set(PRESETS)


@pytest.mark.parametrize("name", ["acdc", "mapillary_1_2", "idd_level3", "idd_cs_train_ids", "viper", "carla_0_9_6",
                                  "loveda"])  # fmt: skip
def test_a_value_that_no_table_names_is_told_and_never_mapped(tmp_path, name):
    assert meaning(name).table[STRANGE] == IGNORE and not meaning(name).known[STRANGE]
    root = unpacked(tmp_path, raw(name, STRANGE))
    data_set = Preset(name, checks=Checks(meaning(name), strict=True), raw_dir=root)
    with pytest.raises(ValueError, match=f"8 of its pixels have value {STRANGE}, which means nothing"):
        data_set.example(next(iter(data_set.records().values()))[0])


def test_a_folder_with_something_else_is_refused_with_what_was_expected(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(LayoutError, match=r"does not look like viper: no images; expected train: train/img/\*/\*\.\*"):
        Preset("viper", checks=Checks(meaning("viper")), raw_dir=str(tmp_path)).records()
    (tmp_path / "cut.zip").write_bytes(b"PK and no more")
    with pytest.raises(ValueError, match=r"cut\.zip cannot be used: .*; fetch it again"):
        Preset("viper", checks=Checks(meaning("viper")), raw_dir=str(tmp_path)).records()


def test_archives_are_prepared_and_read_without_being_unpacked_wherever_they_lie(tmp_path):
    """The archive of labels has one more folder around everything; the copy knows the archives when they move."""
    files = raw("urbansyn")
    images, labels = ({place: held} for place, held in files.items())
    packed(tmp_path / "raw", images | {f"UrbanSyn/{place}": held for place, held in labels.items()})
    folder = prepare("urbansyn", data_dir=str(tmp_path / "data"), raw_dir=str(tmp_path / "raw"))
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == ["0.zip", "1.zip"]
    source = TfdsSource("urbansyn", "train", data_dir=str(tmp_path / "data"), image_size=(3, 8),
                        label_map=meaning("urbansyn"))  # fmt: skip
    held = source.to_memory(labels=True)
    np.testing.assert_array_equal(held.images[0], noise(3, 8, 3))
    np.testing.assert_array_equal(held.labels[0], np.array([0, 16, IGNORE])[:, None].repeat(8, 1))
    (tmp_path / "raw").rename(tmp_path / "elsewhere")
    assert prepare("urbansyn", data_dir=str(tmp_path / "data"), raw_dir=str(tmp_path / "elsewhere")) == folder


def test_a_tar_archive_that_is_cut_off_or_none_or_compressed_is_named(tmp_path):
    """Cut at every block, a file that is missing would otherwise go unnoticed."""
    files = raw("virtual_kitti_2")
    root = pathlib.Path(packed_in_tar(tmp_path / "raw", files))
    whole, place = (root / "1.tar").read_bytes(), max(files, key=lambda place: "classgt" in place)
    end = whole.index(files[place]) + len(files[place])

    def records():
        return Preset("virtual_kitti_2", checks=Checks(meaning("virtual_kitti_2")), raw_dir=str(root)).records()

    assert sum(map(len, records().values())) == 1
    after = len(whole.rstrip(b"\0")) // 512 * 512 + 512  # the last header, of an empty file
    for length in (0, 100, end - 20, end // 512 * 512 + 512, after):
        (root / "1.tar").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"1\.tar cannot be used: .*; fetch it again"):
            records()
    (root / "1.tar").write_bytes(whole)
    (root / "textgt.tar.gz").write_bytes(b"")
    data_set = Preset("virtual_kitti_2", checks=Checks(meaning("virtual_kitti_2")), raw_dir=str(root))
    ((_, (record,)),) = data_set.records().items()
    assert re.search("1 archives that are compressed as a whole: unpack .*textgt.tar.gz", "\n".join(data_set.notes))
    (root / "1.tar").write_bytes(whole[: end - 20])  # once it was listed
    with pytest.raises(ValueError, match=r"1\.tar/Scene01/.*classgt_00000\.png cannot be used: unexpected end of data"):
        data_set.example(record)


def test_files_in_tar_archives_are_read_by_several_threads_at_once(tmp_path):
    files = {f"Scene01/clone/frames/rgb/Camera_0/rgb_{i:05}.jpg": noise(64, 64, 3).tobytes() + bytes([i])
             for i in range(40)}  # fmt: skip
    root = tmp_path / "raw"
    root.mkdir()
    with tarfile.open(root / "rgb.tar", "w") as archive:
        for place, held in files.items():
            info = tarfile.TarInfo(place)
            info.size, info.mtime = len(held), 1_580_000_000
            archive.addfile(info, io.BytesIO(held))
    found = dict(members(epath.Path(root)))
    assert [member.state for member in found.values()] == [(len(held), 1_580_000_000) for held in files.values()]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda place: found[place].read_bytes(), files)) == list(files.values())


def test_gta5_is_read_from_its_archives_as_from_folders(tmp_path):
    from proda_jax.data_prep.gta5 import Gta5

    files = {"images/00001.png": png(noise(4, 8, 3)), "labels/00001.png": png(noise(4, 8, below=30))}
    found = [Gta5(checks=Checks(meaning("gta5")), raw_dir=put(tmp_path / put.__name__, files)) for put in
             (unpacked, packed)]  # fmt: skip
    one, two = (data_set.example(data_set.records()["train"][0]) for data_set in found)
    assert (one.image, one.label, one.stored.digest) == (two.image, two.label, two.stored.digest)
    record = found[1].records()["train"][0]
    info = zipfile.ZipFile(tmp_path / "packed" / "1.zip").infolist()[0]
    assert [(s.length, s.time) for s in states(record)][1] == (info.file_size, info.CRC)


STREET = {  # shares of values on a street, of 1,000 pixels: road, building, sky, light
    "carla_0_9_14": {1: 400, 3: 300, 11: 200, 7: 5, 13: 3},
    "carla_0_9_6": {7: 400, 1: 300, 13: 200, 18: 5},
    "carla_0_9_5": {7: 400, 1: 300, 0: 200, 12: 5},
}


@pytest.mark.parametrize("held", STREET)
@pytest.mark.parametrize("named", STREET)
def test_a_wrong_version_of_carla_is_told_by_its_histogram(held, named):
    wrong = carla.problem(named, STREET[held])
    may_be = {"carla_0_9_5": ("carla_0_9_5", "carla_0_9_6")}.get(held, (held,))
    assert (not wrong) == (named in may_be)
    assert not wrong or all(version in wrong for version in may_be)


def test_a_wrong_version_of_carla_ends_a_preparation_unless_it_is_meant(tmp_path):
    """CARLA alone is no name, so that nobody guesses."""
    files = {"rgb/1.png": png(noise(10, 10, 3)), "semantic/1.png": png(np.full((10, 10), 7, np.uint8))}
    c = base.get_config()
    c.data.source = base.dataset("carla_0_9_14", "train", (32, 32))
    c.data.source.raw_dir = unpacked(tmp_path / "raw", files)
    folder = prepare_role(c.data, "source", str(tmp_path / "data"))
    (found,) = problems(c.data, "source", c.data.source, folder, labels=True)
    assert found.startswith("the labels do not look like carla_0_9_14, but like carla_0_9_5 or carla_0_9_6")
    c.data.allow = ("carla_version", "absent_classes")
    assert problems(c.data, "source", c.data.source, folder, labels=True) == []


def test_labels_of_another_version_of_carla_end_the_command_that_names_the_data_set(tmp_path):
    files = {"rgb/1.png": png(noise(10, 10, 3)), "semantic/1.png": png(np.full((10, 10), 7, np.uint8))}
    given = [f"--raw_dir={unpacked(tmp_path / 'raw', files)}", f"--data_dir={tmp_path / 'data'}"]
    refused = command.run("-m", "data_prep.prepare", "--dataset=carla_0_9_14", *given)
    assert refused.returncode and "do not look like carla_0_9_14, but like carla_0_9_5 or carla_0_9_6" in refused.stderr
    command.run("-m", "data_prep.prepare", "--dataset=carla_0_9_6", *given).check_returncode()


@pytest.mark.parametrize("flag", ["--strict", "--store_scale=0.5", "--raw_dir=raw"])
def test_flags_of_a_named_data_set_are_refused_beside_a_configuration(flag, tmp_path):
    refused = command.run("-m", "data_prep.prepare", "--config=configs/custom.py", f"--data_dir={tmp_path}", flag)
    name = flag[2:].split("=")[0]
    assert refused.returncode and f"{name} goes with --dataset; with --config it is" in refused.stderr + refused.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("labelled", [True, False])
def test_acdcs_references_have_names_of_their_own_and_labels_where_they_are_there(tmp_path, labelled):
    files = {f"rgb_anon/fog/{split}_ref/GOPR1/GOPR1_frame_1_rgb_ref_anon.png": png(noise(8, 8, 3))
             for split in ("train", "test")}  # fmt: skip
    if labelled:
        files["gt/fog/train_ref/GOPR1/GOPR1_frame_1_gt_ref_labelTrainIds.png"] = png(np.full((8, 8), 13, np.uint8))
    data_set = Preset("acdc", checks=Checks(meaning("acdc")), raw_dir=unpacked(tmp_path, files))
    found = data_set.records()
    assert {split: len(records) for split, records in found.items() if records} == {
        "fog_train_ref": 1, "fog_test_ref": 1,
    }  # fmt: skip
    assert (found["fog_train_ref"][0].label is not None) == labelled and found["fog_test_ref"][0].label is None


def tiff(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "TIFF")
    return buffer.getvalue()


@pytest.mark.parametrize("put", [unpacked, packed])
def test_aerial_tiles_are_cut_into_crops_that_cover_them(tmp_path, put):
    generator = np.random.default_rng(0)
    colors = np.array([(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0), (0, 0, 0)],
                      np.uint8)  # fmt: skip
    truth, image = generator.integers(0, 7, (700, 1030)), generator.integers(0, 256, (700, 1030, 3)).astype(np.uint8)
    files = {
        "2_Ortho_RGB/top_potsdam_2_10_RGB.tif": tiff(image),
        "top_potsdam_2_10_label_noBoundary.tif": tiff(colors[truth]),
        "2_Ortho_RGB/top_potsdam_5_15_RGB.tif": tiff(image),
        "top_potsdam_5_15_label.tif": tiff(colors[truth]),
    }
    data_set = isprs.Potsdam(checks=Checks(meaning("potsdam")), raw_dir=put(tmp_path / "raw", files))
    records = data_set.records()
    assert {split: len(found) for split, found in records.items()} == {"train": 6, "val": 6}
    covered = np.zeros(truth.shape, int)
    for record in records["train"]:
        row, column = map(int, record.name.split("_")[-2:])
        cut = np.s_[row : row + 512, column : column + 512]
        found_image, found_label = (np.asarray(Image.open(io.BytesIO(part))) for part in data_set.read(record))
        np.testing.assert_array_equal(found_image, image[cut])
        np.testing.assert_array_equal(found_label, np.where(truth == 6, 255, truth)[cut])
        assert found_label.shape == (512, 512)
        covered[cut] += 1
    assert covered.min() == 1
    assert label_map("potsdam", LABEL_SPACES["isprs5"]).table[5] == IGNORE  # clutter


def test_a_colour_of_no_class_is_named():
    with pytest.raises(ValueError, match=r"1 pixels have colours of no class, such as \(1, 2, 3\)"):
        isprs._classes(np.array([[(1, 2, 3), (255, 0, 0)]], np.uint8), strict=True)
    (found,) = isprs._classes(np.array([[(1, 2, 3), (255, 0, 0), (0, 0, 0)]], np.uint8))
    assert found.tolist() == [254, 5, 255]
    meaning = label_map("potsdam", LABEL_SPACES["isprs6"])
    assert meaning.table[254] == IGNORE and not meaning.known[254]  # so that it is counted and named


def test_a_crop_of_6000_pixels_is_one_of_144():
    assert len(isprs._starts(6000)) ** 2 == 144 and isprs._starts(6000)[-1] == 6000 - 512
    assert isprs._starts(300) == [0]

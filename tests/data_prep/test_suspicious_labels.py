"""Labels that do not mean what the settings say: refused before training, with the setting that mends it."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from proda_jax.configs import base, demo
from proda_jax.data.checks import ALLOWANCES, check_data
from proda_jax.data.label_spaces import CUSTOM, IGNORE, label_map, label_space
from proda_jax.data_prep.prepare import prepare_role
from proda_jax.report import run as runs
from proda_jax.report import tables
from proda_jax.run import provenance
from proda_jax.run.experiment import Experiment
from proda_jax.run.sources import Sources

HEIGHT, WIDTH = 24, 32
COLORS = {(128, 64, 128): "road", (0, 0, 142): "car"}


def write(folder, labels: list[np.ndarray]):
    """Images of noise beside the labels; a configuration of two or three classes that takes them as they are."""
    generator = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for i, label in enumerate(labels):
        image = generator.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
        Image.fromarray(label).save(folder / "labels" / f"{i}.png")


def config_of(folder, *classes: str, values: dict | None = None):
    c = demo.get_config()
    c.data.allow = ()
    c.data.label_space, c.data.classes = CUSTOM, classes
    c.data.source = base.folder("sim", str(folder / "images"), str(folder / "labels"), (HEIGHT, WIDTH), values)
    c.data.target = base.folder("real", str(folder / "images"), None, (HEIGHT, WIDTH))
    c.data.validation = base.folder("none", None, None, (HEIGHT, WIDTH))
    return c


def of_values(*values: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array(values, np.uint8), (HEIGHT, WIDTH))


def opened(config, folder):
    return Sources(config, folder / "run").open("source")


def test_masks_of_0_and_255_are_refused_until_they_are_given_classes(tmp_path):
    masks = [of_values(0, 255, seed=i) for i in range(3)]
    write(tmp_path, masks)
    c = config_of(tmp_path, "ground", "house")
    with pytest.raises(ValueError, match=r"0 and 255 alone, as masks .*data\.source\.label_values=\(\(0, 'ground'\), "
                                         r"\(255, 'house'\)\).*data\.allow=binary_masks"):  # fmt: skip
        opened(c, tmp_path)
    c.data.source.label_values = ((0, "ground"), (255, "house"))
    memory = opened(c, tmp_path).to_memory(labels=True)
    np.testing.assert_array_equal(memory.labels, np.stack(masks) // 255)


@pytest.mark.parametrize(("values", "mended"), [
    ((1, 2, 3), {1: "a", 2: "b", 3: "c"}), ((0, 1, 2, 3), {0: "ignored", 1: "a", 2: "b", 3: "c"}),
])  # fmt: skip
def test_values_that_count_from_one_are_refused_with_what_they_mean(tmp_path, values, mended):
    labels = [of_values(*values, seed=i) for i in range(2)]
    write(tmp_path, labels)
    c = config_of(tmp_path, "a", "b", "c")
    shown = repr(tuple(mended.items()))
    with pytest.raises(ValueError) as refusal:
        opened(c, tmp_path)
    assert f"label values go from {values[0]} to 3" in str(refusal.value)
    assert f"data.source.label_values={shown}" in str(refusal.value)
    c.data.source.label_values = tuple(mended.items())
    found = opened(c, tmp_path).to_memory(labels=True).labels
    np.testing.assert_array_equal(found, np.where(np.stack(labels) == 0, IGNORE, np.stack(labels).astype(int) - 1))


def after_jpeg(label: np.ndarray, quality: int) -> np.ndarray:
    """Colours as JPEG leaves them."""
    buffer = io.BytesIO()
    Image.fromarray(label).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize("quality", [75, 30])
def test_colours_that_are_off_are_refused_with_the_tolerance_that_mends_them(tmp_path, quality):
    label = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    label[:] = (128, 64, 128)
    label[10:, 12:] = (0, 0, 142)
    write(tmp_path, [after_jpeg(label, quality)] * 2)
    c = config_of(tmp_path, "road", "car", values=COLORS)
    with pytest.raises(ValueError, match=r"almost those of classes, such as .*data\.source\.color_tolerance=\d+") as no:
        opened(c, tmp_path)
    c.data.source.color_tolerance = int(str(no.value).split("color_tolerance=")[1].split(",")[0])
    check_data(c)
    found = opened(c, tmp_path).to_memory(labels=True).labels
    truth = (label[..., 0] == 0).astype(np.uint8)  # car
    assert (found == truth).mean() > 0.9
    far = np.abs(after_jpeg(label, quality).astype(int)[None] - np.array(list(COLORS))[:, None, None]).max(-1).min(0)
    np.testing.assert_array_equal(found == IGNORE, np.stack([far > c.data.source.color_tolerance] * 2))


def test_a_tolerance_gives_each_colour_the_nearest_meaning_in_reach():
    """Against distances to each named colour, written out."""
    space = label_space(CUSTOM, ("a", "b"))
    values = [((10, 20, 30), "a"), ((14, 20, 30), "b"), ((200, 250, 255), "a"), ((205, 250, 250), "ignored")]
    found = label_map("folder", space, values, tolerance=6)
    colors = np.concatenate([np.random.default_rng(0).integers(0, 40, (4000, 3)),
                             np.random.default_rng(1).integers(190, 256, (4000, 3))])  # fmt: skip
    named = np.array([color for color, _ in values])
    difference = np.abs(colors[:, None] - named)
    squared = np.where((difference <= 6).all(-1), (difference**2).sum(-1), 10**6)
    meaning = np.array([0, 1, 0, IGNORE])[squared.argmin(1)]
    numbers = colors @ np.array([65536, 256, 1])
    np.testing.assert_array_equal(found.table[numbers], np.where(squared.min(1) < 10**6, meaning, IGNORE))
    np.testing.assert_array_equal(found.known[numbers], squared.min(1) < 10**6)


@pytest.mark.parametrize("shape", [(WIDTH, HEIGHT), (HEIGHT, HEIGHT)], ids=["turned", "cut"])
def test_labels_of_another_shape_are_refused(tmp_path, shape):
    label = np.random.default_rng(0).integers(0, 2, shape).astype(np.uint8)
    write(tmp_path, [of_values(0, 1), label])
    c = config_of(tmp_path, "a", "b")
    with pytest.raises(ValueError, match=rf"1 labels have another shape .*1\.png is {shape[1]} x {shape[0]}, its image "
                                         rf"{WIDTH} x {HEIGHT}"):  # fmt: skip
        opened(c, tmp_path)
    c.data.allow = ("label_shapes",)
    assert opened(c, tmp_path).labelled


def test_labels_of_another_size_but_the_same_shape_are_resized(tmp_path):
    write(tmp_path, [of_values(0, 1), of_values(0, 1)[::2, ::2]])
    assert opened(config_of(tmp_path, "a", "b"), tmp_path).labelled


def test_a_class_without_a_source_pixel_is_refused_unless_allowed(tmp_path):
    write(tmp_path, [of_values(0, 2)])
    c = config_of(tmp_path, "a", "b", "c")
    with pytest.raises(ValueError, match=r"no source pixel is b, .*the values .*data\.source\.label_values.*"
                                         r"data\.allow=absent_classes"):  # fmt: skip
        opened(c, tmp_path)
    c.data.source.label_values = ((0, "a"), (2, "c"))
    with pytest.raises(ValueError, match=r"no value stands for b in data\.source\.label_values"):
        opened(c, tmp_path)
    c.data.allow = ("absent_classes",)
    assert opened(c, tmp_path).labelled
    c.data.validation = base.folder("val", str(tmp_path / "images"), str(tmp_path / "labels"), (HEIGHT, WIDTH))
    c.data.allow = ()
    assert Sources(c, tmp_path / "run").open("validation").labelled  # where nothing is learnt, it is noted


def test_labels_that_are_mostly_ignored_are_refused_unless_allowed(tmp_path):
    write(tmp_path, [of_values(0, 1, 50, 100)])
    c = config_of(tmp_path, "a", "b")
    with pytest.raises(ValueError, match=r"source .*% of all pixels are ignored, having the values (50|100) \("):
        opened(c, tmp_path)
    c.data.validation = base.folder("val", str(tmp_path / "images"), str(tmp_path / "labels"), (HEIGHT, WIDTH))
    with pytest.raises(ValueError, match=r"validation .*% of all pixels are ignored"):
        Sources(c, tmp_path / "run").open("validation")
    c.data.allow = ("ignored_pixels",)
    assert opened(c, tmp_path).labelled


def test_labels_that_are_right_are_taken_and_what_is_worth_knowing_is_said_noted_and_reported(tmp_path, capsys):
    write(tmp_path, [of_values(0, 1, 2, 77, seed=i) for i in range(3)])
    c = config_of(tmp_path, "a", "b", "c")
    opened(c, tmp_path)
    capsys.readouterr()
    sources = Sources(c, tmp_path / "run")  # says it again, though the data are prepared
    sources.open("source")
    said = capsys.readouterr().err
    assert "source: folder/sim: 3 images of 32 x 24 (3)" in said and "label values without meaning" in said
    assert len(said.splitlines()) == 2
    provenance.note_data(tmp_path / "run", sources.noted)
    provenance.note_configuration(tmp_path / "run", c)
    (note,) = tables.data_notes(runs.read(tmp_path / "run"))
    assert note.text.startswith("Source images: folder/sim: 3 images") and "77 (" in note.text


def test_nothing_is_trained_or_written_for_labels_that_are_refused(tmp_path):
    write(tmp_path, [of_values(0, 255)])
    c = config_of(tmp_path, "a", "b")
    c.data.data_dir, workdir = str(tmp_path / "data"), tmp_path / "run"
    with pytest.raises(ValueError, match="data.allow=binary_masks"):
        Experiment(c, workdir, Sources(c, workdir), devices_used=1).run()
    assert not workdir.exists()
    assert (tmp_path / "data" / "folder" / "sim" / "2.0.0" / "contact_sheet.png").exists()  # to look at


def test_unused_labels_of_target_images_may_be_anything(tmp_path):
    write(tmp_path, [of_values(0, 255)])
    c = config_of(tmp_path, "a", "b")
    c.data.target = base.folder("real", str(tmp_path / "images"), str(tmp_path / "labels"), (HEIGHT, WIDTH))
    assert Sources(c, tmp_path / "run").open("target").labelled
    c.source.target_labels = True  # now a stage learns from them
    with pytest.raises(ValueError, match=r"the target images .*data\.target\.label_values"):
        Sources(c, tmp_path / "run").open("target")


def test_what_may_be_allowed_is_named_and_recipes_whose_source_lacks_classes_allow_it(tmp_path):
    c = config_of(tmp_path, "a", "b")
    c.data.allow = ("absent_clases",)
    with pytest.raises(ValueError, match="did you mean 'absent_classes'"):
        check_data(c)
    c.data.allow = ALLOWANCES
    check_data(c)
    c.data.source.color_tolerance = 3
    with pytest.raises(ValueError, match=r"color_tolerance = 3: expected 0, as label_values names no colours"):
        check_data(c)
    assert demo.get_config().data.allow == ("absent_classes",)


def test_the_demos_streets_are_refused_where_their_missing_class_is_not_allowed(tmp_path, monkeypatch):
    from proda_jax.data_prep import demo as builder

    monkeypatch.setattr(builder, "_COUNTS", {"source_train": 60})
    c = demo.get_config()
    assert opened(c, tmp_path).labelled
    c.data.allow = ()
    with pytest.raises(ValueError, match="no source pixel is train,"):
        opened(c, tmp_path)
    assert prepare_role(c.data, "source", str(tmp_path / "run" / "data")).exists()


def test_palettes_that_show_one_class_in_the_colour_of_another_are_refused(tmp_path):
    chosen = np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH)).astype(np.uint8)
    write(tmp_path, [chosen])
    c, classes = config_of(tmp_path, "a", "b", "c"), {"a": (255, 0, 0), "b": (0, 255, 0), "c": (0, 0, 255)}
    by_colors = tuple((color, name) for name, color in classes.items())

    def labels(*shown: str):
        """With these colours for values 0, 1, ...; the last one has no meaning, as licence plates of cars' colour."""
        image = Image.frombytes("P", (WIDTH, HEIGHT), chosen.tobytes())
        image.putpalette([channel for name in shown for channel in classes[name]])
        image.save(tmp_path / "labels" / "0.png")
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return opened(c, tmp_path).to_memory(labels=True).labels[0]

    np.testing.assert_array_equal(labels("c", "a", "b"), chosen)  # nobody chose colours that could contradict
    c.data.colors = tuple(classes.values())
    np.testing.assert_array_equal(labels("a", "b", "c"), chosen)
    message = (r"1 labels have palettes .*0\.png shows value 0 in the colour of 'c', and it is taken for 'a'\. .*"
               r"source\.label_values=\(\(\(255, 0, 0\), 'a'\), .*allow=other_palettes")  # fmt: skip
    with pytest.raises(ValueError, match=message):
        labels("c", "a", "b")
    c.data.source.label_values = by_colors
    np.testing.assert_array_equal(labels("c", "a", "b"), np.array([2, 0, 1])[chosen])
    c.data.source.label_values = ((0, "a"), (1, "b"), (2, "ignored"))
    c.data.allow = ("absent_classes",)
    np.testing.assert_array_equal(labels("a", "b", "a"), np.where(chosen == 2, IGNORE, chosen))

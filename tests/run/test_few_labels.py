"""A few labelled target images, and no source: what is learnt from, and what nobody opens."""

import itertools

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import IMAGE, block_source, tiny_config, tiny_stage

from proda_jax.configs import base, gta5
from proda_jax.data.joined import Joined
from proda_jax.data.memory import MemorySource
from proda_jax.run import given, provenance, settings
from proda_jax.run.experiment import Experiment
from proda_jax.run.records import Metrics
from proda_jax.run.sources import Sources

FEW = ("000001", "000004")  # of six target images


class Guarded(MemorySource):
    """A target that gives away the labels of `FEW` alone."""

    def chosen_batches(self, records, batch_size, *, labels):
        for wanted, batch in zip(*_twice(records, lambda r: super(Guarded, self).chosen_batches(
            r, batch_size, labels=labels)), strict=False):  # fmt: skip
            assert not labels or {self.names[record] for record in wanted} <= set(FEW)
            yield batch

    def training_batches(self, *args, labels, **kwargs):
        assert not labels
        return super().training_batches(*args, labels=labels, **kwargs)

    def ordered_batches(self, *args, labels, **kwargs):
        assert not labels
        return super().ordered_batches(*args, labels=labels, **kwargs)

    def label(self, record):
        assert self.names[record] in FEW
        return super().label(record)


def _twice(records, made):
    first, second = itertools.tee(records)
    return first, made(second)


def target() -> Guarded:
    source = block_source(6, 1)
    return Guarded(source.images, source.labels)


def config_of(tmp_path, *stages: str, source: bool = True):
    c = tiny_config()
    (tmp_path / "few.txt").write_text("# two of six\n" + "\n".join(FEW) + "\n")
    c.data.labelled_target = str(tmp_path / "few.txt")
    c.snapshots.images, c.data.validation.name = 0, "none"  # programs that nothing is asserted of
    if not source:
        c.data.source = None
    c.stages = stages
    c.source = tiny_stage(base.supervised("random", 2))
    c.stage2 = tiny_stage(base.distill("source", "source", 2), label_threshold=0.2)
    c.mix = tiny_stage(base.mix("source", 2))
    c.oracle = tiny_stage(base.supervised("random", 2, target_labels=True))
    return c


def sources_of(config, tmp_path, **others) -> Sources:
    held = {"source": block_source(4, 0), "target": target()}
    return Sources(config, tmp_path, held | others)


@pytest.mark.parametrize("shard", [(0, 1), (0, 2), (1, 2)])
def test_labelled_target_images_have_their_share_of_every_batch(tmp_path, shard):
    config = config_of(tmp_path, "source")
    config.data.labelled_target_share = 0.25
    labelled = sources_of(config, tmp_path).labelled()
    whole = labelled.training_batches(4, seed=6, labels=True)
    ours = labelled.training_batches(4, seed=6, labels=True, first_step=3, shard=shard)
    share = slice(shard[0] * 4 // shard[1], (shard[0] + 1) * 4 // shard[1])
    seen = []
    for step, batch in enumerate(itertools.islice(whole, 8)):
        of_target = batch["record"] >= 4  # the source has four
        assert of_target.sum() == 1
        seen += batch["record"].tolist()
        if step >= 3:
            for key, values in next(ours).items():
                np.testing.assert_array_equal(values, batch[key][share])
    assert set(seen) == set(range(6))


def test_a_joined_batch_holds_the_records_it_says(tmp_path):
    config = config_of(tmp_path, "source")
    labelled = sources_of(config, tmp_path).labelled()
    assert isinstance(labelled, Joined) and len(labelled) == 6
    images = np.concatenate([block_source(4, 0).images, block_source(6, 1).images[[1, 4]]])
    labels = np.concatenate([block_source(4, 0).labels, block_source(6, 1).labels[[1, 4]]])
    for batch in itertools.islice(labelled.training_batches(3, seed=2, labels=True), 5):
        np.testing.assert_array_equal(batch["image"], images[batch["record"]])
        np.testing.assert_array_equal(batch["label"], labels[batch["record"]])
    found = list(labelled.ordered_batches(4, labels=True))
    assert [batch["record"].tolist() for batch in found] == [[0, 1, 2, 3], [4, 5, -1, -1]]
    np.testing.assert_array_equal(labelled.to_memory(labels=True, records=[5, 0]).images, images[[5, 0]])
    np.testing.assert_array_equal(labelled.label(4), labels[4])


def test_the_rest_of_the_target_stays_unlabelled_and_apart(tmp_path):
    sources = sources_of(config_of(tmp_path, "source"), tmp_path)
    assert sources.open("target").names == ("000000", "000002", "000003", "000005")
    seen = {int(record) for batch in itertools.islice(
        sources.open("target").training_batches(2, seed=0, labels=False), 4) for record in batch["record"]}  # fmt: skip
    assert seen == set(range(4))


@pytest.mark.parametrize(("source", "stages"), [
    (True, ("source", "stage2")),
    pytest.param(True, ("source", "stage2", "mix"), marks=pytest.mark.slow),
    pytest.param(False, ("source", "stage2", "mix"), marks=pytest.mark.slow),
])  # fmt: skip
def test_all_stages_run_on_a_few_labels(tmp_path, source, stages):
    config = config_of(tmp_path, *stages, source=source)
    settings.check(config)
    run = Experiment(config, tmp_path / "run", sources_of(config, tmp_path), devices_used=1)
    result = run.run()
    assert [stage["last"]["step"] for stage in result["stages"]] == [2] * len(stages)
    for name, metric in zip(stages, ("source_ce", "target_fit", "mixed_ce"), strict=False):
        for line in Metrics(tmp_path / "run" / name / "metrics.jsonl", 2).entries:
            assert line["source_ce"] > 0 and line[metric] > 0 and line["skipped"] == 0
    labels = sorted(path.stem for path in (tmp_path / "run" / "source").glob("hard_labels*/*.npz"))
    assert labels == ["000000", "000002", "000003", "000005"]
    (tmp_path / "few.txt").write_text("000001\n")
    with pytest.raises(ValueError, match=r"config\.data\.labelled_target was"):
        provenance.check(tmp_path / "run" / stages[-1], config, stages[-1])


@pytest.mark.parametrize("stages", [("stage2",), pytest.param(("stage2", "mix"), marks=pytest.mark.slow)])
def test_without_source_and_labels_stages_start_from_given_networks(tmp_path, stages):
    teacher = config_of(tmp_path, "source", source=False)
    Experiment(teacher, tmp_path / "before", sources_of(teacher, tmp_path), devices_used=1).run()
    config = config_of(tmp_path, *stages, source=False)
    config.data.labelled_target = None
    config.stage2.init, config.stage2.teacher = str(tmp_path / "before"), str(tmp_path / "before" / "source")
    config.mix.init, config.mix.weighting, config.mix.masked_weight = "stage2", "prototypes", 1.0
    config.mix.prototype_min_pixels = config.mix.prototype_init_min_pixels = 1
    given.name_networks(config)
    assert config.stages == ("given", *stages)
    settings.check(config)
    unlabelled = MemorySource(target().images)
    held = {"target": unlabelled}
    result = Experiment(config, tmp_path / "run", Sources(config, tmp_path, held), devices_used=1).run()
    assert [stage["name"] for stage in result["stages"]] == ["given", *stages]
    before = Experiment(teacher, tmp_path / "before", sources_of(teacher, tmp_path), devices_used=1)
    after = Experiment(config, tmp_path / "run", Sources(config, tmp_path, held), devices_used=1)
    given_one, trained = after.networks.variables("given"), before.networks.variables("source")
    jax.tree.map(np.testing.assert_array_equal, given_one, trained)
    for name, metric in zip(stages, ("target_fit", "mixed_ce"), strict=False):
        for line in Metrics(tmp_path / "run" / name / "metrics.jsonl", 2).entries:
            assert line[metric] > 0 and line["skipped"] == 0 and "source_ce" not in line


@pytest.mark.parametrize(("stage", "changes", "message"), [
    ("source", {}, "for stage 'source', which is 'supervised': only 'distill' and 'mix' do without"),
    ("mix", {"mix.rare_class_sampling": True}, "for mix.rare_class_sampling = True"),
    ("mix", {"mix.largest_class": 0.75}, "for mix.largest_class = 0.75"),
    ("mix", {"mix.jitter.brightness": 0.5}, "for mix.jitter = "),
    ("mix", {"mix.fourier_beta": 0.2}, "for mix.fourier_beta = 0.2"),
    ("mix", {"mix.reduction": "image"}, "for mix.reduction = 'image'"),
    ("stage2", {"stage2.jitter.brightness": 0.5}, "for stage2.jitter = "),
    ("stage2", {"stage2.source_weight": 0.5}, "for stage2.source_weight = 0.5"),
    ("stage2", {"stage2.mean_over": "both"}, "for stage2.mean_over = 'both'"),
    ("mix", {"mix.weighting": "prototypes", "mix.prototype_init": "source"}, "for mix.prototype_init = 'source'"),
])  # fmt: skip
def test_what_needs_a_source_is_refused_before_any_work(tmp_path, stage, changes, message):
    config = config_of(tmp_path, stage, source=False)
    config.data.labelled_target = None
    config.mix.init = config.stage2.init = "random"
    config.update_from_flattened_dict(changes)
    if "prototypes" in changes.values():
        config.stages, config.source.weights = ("source", "mix"), str(tmp_path / "few.txt")
        config.mix.init = "source"
    with pytest.raises(ValueError, match="config.data.source.name = 'none': expected labelled images") as refusal:
        settings.check(config)
    assert message in str(refusal.value)


def test_mixing_without_labelled_images_and_without_a_loss_is_refused(tmp_path):
    config = config_of(tmp_path, "mix", source=False)
    config.data.labelled_target, config.mix.init, config.mix.mixed_weight = None, "random", 0.0
    with pytest.raises(ValueError, match="config.mix.mixed_weight = 0.0: expected above 0, or masked_weight"):
        settings.check(config)


@pytest.mark.parametrize("listed", ["a1.png", "b1.png"])
def test_one_of_several_targets_may_have_no_labels_unless_its_images_are_listed(tmp_path, listed):
    rng = np.random.default_rng(0)
    for name in "ab":
        for i in range(3):
            file = tmp_path / name / f"{name}{i}.png"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (*IMAGE, 3), np.uint8)).save(file)
    (tmp_path / "labels").mkdir()
    Image.fromarray(np.zeros(IMAGE, np.uint8)).save(tmp_path / "labels" / "a1.png")
    config = config_of(tmp_path, "source")
    (tmp_path / "few.txt").write_text(f"{listed}\n")
    config.data.data_dir, config.data.allow = str(tmp_path / "data"), ("absent_classes",)
    base.give(config, target=[base.folder(name, str(tmp_path / name), labels, IMAGE)
                              for name, labels in (("a", str(tmp_path / "labels")), ("b", None))])  # fmt: skip
    settings.check(config)
    sources = Sources(config, tmp_path, {"source": block_source(4, 0)})
    if listed == "a1.png":
        assert len(sources.labelled()) == 5 and len(sources.open("target")) == 5
        return
    with pytest.raises(ValueError, match=r"names 'b1', an image of config.data.target\[1\], which has no labels"):
        sources.labelled()


@pytest.mark.parametrize(("changes", "message"), [
    ({"stages": ("oracle",)}, "config.oracle.target_labels = True: expected False"),
    ({"data.labelled_target_share": 1.0}, "above 0 and below 1"),
    ({"data.labelled_target": None, "data.labelled_target_share": 0.25}, "it acts beside data.labelled_target alone"),
    ({"data.target.image_size": (64, 96)}, r"config.data.target.image_size = \(64, 96\): expected \(48, 96\)"),
])  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(tmp_path, changes, message):
    config = config_of(tmp_path, "source")
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        settings.check(config)


def test_labels_that_are_not_listed_are_never_opened_nor_needed(tmp_path):
    """Of four images in a folder, one has no label and two have files that are no labels, which nobody notices."""
    images, labels = block_source(4, 3).images, block_source(4, 3).labels
    for i, name in enumerate("abcd"):
        for folder, pixels in (("rgb/day", images[i]), ("seg/day", labels[i])):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    for name in "ad":
        (tmp_path / "seg/day" / f"{name}.png").write_bytes(b"no label")
    (tmp_path / "seg/day/c.png").unlink()
    config = config_of(tmp_path, "source", source=False)
    (tmp_path / "few.txt").write_text("rgb/day/b.png\n")
    config.data.target = base.folder("streets", str(tmp_path / "rgb"), str(tmp_path / "seg"), (48, 96))
    settings.check(config)
    for loader in ("tfds", "memory"):
        config.data.loader = loader
        sources = Sources(config, tmp_path / "run")
        assert sources.labelled().names == ("day/b",)
        assert sources.open("target").names == ("day/a", "day/c", "day/d")
        batch = next(sources.labelled().training_batches(2, seed=0, labels=True))
        np.testing.assert_array_equal(batch["label"], labels[[1, 1]])
        batch = next(sources.open("target").training_batches(3, seed=0, labels=False))
        np.testing.assert_array_equal(batch["image"], images[[0, 2, 3]][batch["record"]])
    (tmp_path / "few.txt").write_text("day/b\nday/c\n")
    with pytest.raises(ValueError, match="day/c has no label in .*, of when it had none"):
        next(Sources(config, tmp_path / "run").labelled().training_batches(2, seed=0, labels=True))
    config.data.labelled_target = None
    with pytest.raises(ValueError, match="was prepared with labelled"):
        Sources(config, tmp_path / "run").open("target")


def test_a_list_that_names_no_image_or_all_of_them_is_refused(tmp_path):
    config = config_of(tmp_path, "source", "mix")
    (tmp_path / "few.txt").write_text("000001\nelsewhere/9\n")
    with pytest.raises(ValueError, match=r"few\.txt .*1 of its lines .*line 2, 'elsewhere/9', which names none"):
        sources_of(config, tmp_path).labelled()
    (tmp_path / "few.txt").write_text("\n".join(f"00000{i}" for i in range(6)))
    whole = sources_of(config, tmp_path, target=block_source(6, 1))
    with pytest.raises(ValueError, match="names all target images, and stage 'mix' learns from others"):
        Experiment(config, tmp_path / "run", whole, devices_used=1).begin()
    (tmp_path / "few.txt").write_text("000001")
    bare = sources_of(config, tmp_path, target=block_source(6, 1, labelled=False))
    with pytest.raises(ValueError, match="names '000001', an image of config.data.target, which has no labels"):
        Experiment(config, tmp_path / "run", bare, devices_used=1).begin()


@pytest.mark.parametrize("more", [{"data.source.image_size": (1024, 2048)}, {"data.source": None}])
def test_the_commands_of_the_documentation_are_possible(more, tmp_path):
    """docs/data.md, 'A few labelled target images'."""
    c = gta5.get_config()
    for kind in ("imagenet", "self_supervised"):
        (tmp_path / f"{kind}.npz").touch()
        c.model[f"{kind}_weights"] = str(tmp_path / f"{kind}.npz")
    (tmp_path / "hundred.txt").write_text("aachen_000000_000019\n")
    c.data.labelled_target = str(tmp_path / "hundred.txt")
    c.update_from_flattened_dict(more)
    settings.check(c)

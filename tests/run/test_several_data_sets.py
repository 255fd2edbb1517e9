"""Several sources, targets and validation sets in one run: their shares, their scores, and what remembers them."""

import itertools
import json

import numpy as np
import pytest
from tiny import IMAGE, block_source, blocks, tiny_config, tiny_stage

from proda_jax import report
from proda_jax.configs import base
from proda_jax.data.joined import Joined, JoinedRareClassOrder, Shares
from proda_jax.data.memory import MemorySource
from proda_jax.data.rare_classes import class_probabilities, label_pixels
from proda_jax.report import score_tables, status
from proda_jax.run import provenance, settings
from proda_jax.run.experiment import Experiment
from proda_jax.run.sources import Sources


def several(*splits: str, **settings) -> tuple:
    found = tuple(base.dataset("camvid", split, IMAGE) for split in splits)
    for one, share in zip(found, settings.get("shares", [1.0] * len(found)), strict=True):
        one.share = share
    return found


def config_of(*stages: str):
    c = tiny_config()
    c.snapshots.images = 0  # programs that nothing is asserted of
    base.give(c, source=several("day_train", "dusk_train", shares=[3.0, 1.0]))
    base.give(c, target=several("dusk_train", "dusk_test"), validation=several("day_test", "dusk_test"))
    c.data.validation[1].image_size = (40, 64)
    c.stages = stages
    c.source = tiny_stage(base.supervised("random", 1))
    c.stage2 = tiny_stage(base.distill("source", "source", 1), label_threshold=0.2)
    return c


def other_size(records: int, seed: int) -> MemorySource:
    image, label = blocks(records, seed)
    return MemorySource(image[:, :40, :64].copy(), label[:, :40, :64].copy())


def sources_of(config, tmp_path) -> Sources:
    return Sources(config, tmp_path, {
        "source": [block_source(6, 0), block_source(3, 1)],
        "target": [block_source(2, 2, labelled=False), block_source(3, 3, labelled=False)],
        "validation": [block_source(2, 4), other_size(3, 5)],
    })  # fmt: skip


def joined(*shares: float, sizes=(5, 7, 3)) -> Joined:
    parts = [block_source(size, seed) for seed, size in enumerate(sizes)]
    return Joined(parts, [f"set {i}" for i in range(len(parts))], shares)


def test_every_batch_has_each_share_rounded_up_or_down_and_on_average_exactly():
    shares = np.array([0.5, 0.3, 0.2])
    drawn = np.array([Shares(10 * shares, 4, seed=3).of(n) for n in range(4000)]).reshape(1000, 4)
    counts = np.stack([(drawn == part).sum(1) for part in range(3)], 1)
    assert (np.abs(counts - 4 * shares) < 1).all()
    np.testing.assert_allclose(counts.mean(0), 4 * shares, atol=0.05)


def test_an_epoch_shows_no_image_twice_and_orders_depend_on_seed_and_step_alone():
    whole = [batch["record"] for batch in itertools.islice(
        joined(1, 1, 1).training_batches(3, seed=5, labels=False), 40)]  # fmt: skip
    of_second = [int(r) for batch in whole[:7] for r in batch if 5 <= r < 12]  # 21 examples: three epochs of it
    for epoch in range(3):
        inside = [int(r) for n, r in enumerate(np.concatenate(whole)) if n // 7 == epoch and 5 <= r < 12]
        assert len(set(inside)) == len(inside)
    assert set(np.concatenate(whole)) == set(range(15)) and of_second
    later = itertools.islice(joined(1, 1, 1).training_batches(3, seed=5, first_step=20, labels=False), 20)
    np.testing.assert_array_equal([batch["record"] for batch in later], whole[20:])
    others = itertools.islice(joined(1, 1, 1).training_batches(3, seed=6, labels=False), 40)
    assert any((batch["record"] != before).any() for batch, before in zip(others, whole, strict=True))


def test_rare_classes_are_drawn_in_each_data_set_by_its_own_rarity():
    source = joined(3, 1, 0.5)
    pixels = label_pixels(source, 11, 1)
    how = {"temperature": 0.01, "min_pixels": 10}
    order = JoinedRareClassOrder(pixels, source, 4, seed=9, **how)
    drawn = [order.draw(n) for n in range(600)]
    parts = np.array([source.part_of(record) for record, _ in drawn])
    np.testing.assert_allclose(np.bincount(parts) / 600, np.array([3, 1, 0.5]) / 4.5, atol=0.02)
    for record, chosen in drawn[:100]:
        assert pixels[record, chosen] > 0
    of_first = np.array([chosen for (_, chosen), part in zip(drawn, parts, strict=True) if part == 0])
    expected = class_probabilities(pixels[:5].sum(0), how["temperature"])
    np.testing.assert_allclose(np.bincount(of_first, minlength=11) / len(of_first), expected, atol=0.06)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("several")
    config = config_of("source", "stage2")
    settings.check(config)
    results = Experiment(config, workdir, sources_of(config, workdir), devices_used=1).run()
    return workdir, config, results


def test_each_validation_set_is_scored_and_shown(run):
    workdir, config, results = run
    last = results["stages"][1]["last"]
    assert list(last["validation"]) == ["camvid, day_test", "camvid, dusk_test"]
    first, second = last["validation"].values()
    assert first == {key: value for key, value in last.items() if key in first} and first["miou"] != second["miou"]
    assert json.loads((workdir / "results.json").read_text())["stages"][1]["last"] == last
    before = results["stages"][0]["last"]["validation"]["camvid, dusk_test"]["miou"]
    line = f"mIoU on camvid, dusk_test: source {before:.1f}, stage2 {second['miou']:.1f}"
    for text in (score_tables.table([stage | {"seconds": 1} for stage in results["stages"]]), status.text(workdir)):
        assert line in text
    page = report.write(workdir).read_text()
    assert "mIoU of the last networks on each validation set" in page and f"{second['miou']:.1f}" in page
    assert "camvid day_train + camvid dusk_train to camvid dusk_train + camvid dusk_test" in page


def test_a_set_has_the_score_that_it_has_alone(run):
    """By the settings that the workdir notes, of which the second set is made the only one."""
    workdir, _, results = run
    config = provenance.read_configuration(workdir)
    with config.unlocked():
        base.give(config, validation=config.data.validation[1])
    sources = Sources(config, workdir, {"validation": other_size(3, 5)})
    found = Experiment(config, workdir, sources, devices_used=1).evaluate("stage2")
    assert found["miou"] == results["stages"][1]["last"]["validation"]["camvid, dusk_test"]["miou"]
    assert found["images"] == 3


def test_pseudo_labels_are_of_the_images_of_all_targets(run):
    workdir, config, _ = run
    expected = [f"camvid, dusk_{split}/{i:06d}" for split, number in (("train", 2), ("test", 3)) for i in range(number)]
    assert sources_of(config, workdir).open("target").names == tuple(expected)
    assert len(list((workdir / "source").glob("hard_labels*/*.npz"))) == 5


def test_a_workdir_remembers_shares_and_refuses_others(run):
    workdir, _, _ = run
    config = config_of("source", "stage2")
    provenance.check(workdir / "stage2", config, "stage2")
    config.data.source[0].share = 2.0
    with pytest.raises(ValueError, match=r"config.data.source\[0\].share was 3.0 and is 2.0 now"):
        provenance.check(workdir / "stage2", config, "stage2")


@pytest.mark.parametrize(("change", "message"), [
    (lambda d: setattr(d.source[1], "image_size", (64, 96)), r"data.source\[1\].image_size = \(64, 96\): expected"),
    (lambda d: setattr(d.source[0], "share", 0.0), r"data.source\[0\].share = 0.0: expected a positive number"),
    (lambda d: setattr(d.validation[0], "share", 2.0), r"data.validation\[0\].share = 2.0: expected 1.0"),
    (lambda d: setattr(d.target[0], "split", "dusk_test"), "each data set of a role once"),
    (lambda d: setattr(d.target[1], "name", "camvids"), r"data.target\[1\].name = 'camvids'"),
    (lambda d: setattr(d, "target", ()), "the images that are adapted to"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused_by_their_names(change, message):
    config = config_of("source")
    change(config.data)
    with pytest.raises(ValueError, match=message):
        settings.check(config)

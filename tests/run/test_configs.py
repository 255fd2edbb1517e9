"""The configurations: each loads and is possible, says what it promises, and the two large ones run through."""

import importlib
import pathlib

import ml_collections
import pytest

from proda_jax.adaptation.stages import build
from proda_jax.adaptation.stages.sections import views_of
from proda_jax.configs import (
    adaptsegnet,
    advent,
    apoda,
    base,
    bdl,
    cag,
    camvid,
    cbst,
    clan,
    cpsl,
    custom,
    cycada,
    dacs,
    daformer,
    deeplabv2,
    demo,
    dfuda,
    fada,
    fda,
    gta5,
    gta5_released,
    hrda,
    lrent,
    mic,
    mrkld,
    patchalign,
    seg_uncertainty,
    sepico,
    synthia,
    vfm_uda,
)
from proda_jax.run import given, ranges, settings

ROOT = pathlib.Path(__file__).parents[2]
FULL_SIZE = ("gta5", "synthia", "gta5_released")
STAGES = ("warmup", "stage1", "stage2", "stage3")


def leaves(config: ml_collections.ConfigDict) -> dict:
    """{'section.name': value} of every setting."""
    flat = {}
    for key, value in config.items(preserve_field_references=False):
        if isinstance(value, ml_collections.ConfigDict):
            flat |= {f"{key}.{name}": leaf for name, leaf in leaves(value).items()}
        else:
            flat[key] = value
    return flat


def with_weights(config: ml_collections.ConfigDict, path: pathlib.Path) -> ml_collections.ConfigDict:
    starts = {section.get("init") for section in config.values() if isinstance(section, ml_collections.ConfigDict)}
    for kind in starts & {"imagenet", "self_supervised"}:
        config.model[f"{kind}_weights"] = str(path)
    return config


@pytest.mark.parametrize("name", [*FULL_SIZE, "custom"])
def test_a_missing_weight_file_is_refused_and_named_before_anything_is_computed(name):
    with pytest.raises(ValueError, match="config.model.imagenet_weights = None: expected a file with"):
        settings.check(importlib.import_module(f"proda_jax.configs.{name}").get_config())


@pytest.mark.smoke("configs")
@pytest.mark.parametrize("config", [gta5, synthia, gta5_released])
def test_full_recipes_run_long_stages_in_the_papers_order(config):
    c = config.get_config()
    assert c.stages == STAGES
    assert all(c[name].steps >= 30_000 for name in c.stages)
    assert [c[name].kind for name in c.stages] == ["warmup", "denoise", "distill", "distill"]
    assert (c.warmup.init, c.stage1.init, c.stage2.init) == ("imagenet", "warmup", "self_supervised")
    assert (c.stage2.teacher, c.stage3.teacher) == ("stage1", "stage2")
    assert c.evaluate_every == 1000


def test_synthia_differs_from_gta5_in_its_data_and_the_regulariser_alone():
    ours, theirs = leaves(synthia.get_config()), leaves(gta5.get_config())
    differing = {key for key in ours | theirs if ours.get(key) != theirs.get(key)}
    assert differing == {
        "task", "data.label_space", "data.source.name", "data.source.image_size", "stage1.regulariser_weight"
    }  # fmt: skip
    assert ours["stage1.regulariser_weight"] == 0.0


def test_the_released_configuration_changes_only_the_rows_in_which_our_default_is_another():
    ours, theirs = leaves(gta5_released.get_config()), leaves(gta5.get_config())
    differing = {key: value for key, value in ours.items() if theirs[key] != value}
    steps = {f"{stage}.backbone_steps": "released" for stage in ("warmup", "stage2", "stage3")}
    assert differing == steps | {
        "task": "gta5_released",
        "handover": "best",
        "model.batch_norm_epsilon": "clamped",
        "warmup.backbone_rate": 1e-4,
        "warmup.head_rate": 1e-3,
        "warmup.batch_norm": "batch",
        "stage1.prototype_init_passes": 4,
        "stage2.distillation_form": "released",
        "stage3.distillation_form": "released",
        "stage3.init": "stage2",
    }


@pytest.mark.parametrize("form", dacs.FORMS)
def test_one_stage_recipes_are_possible_and_each_adds_to_the_one_before(form, tmp_path):
    (tmp_path / "weights").write_bytes(b"")
    recipes = [with_weights(config.get_config(form), tmp_path / "weights") for config in (dacs, daformer, mic)]
    for recipe in recipes:
        settings.check(recipe)
    settings_of = [leaves(recipe) for recipe in recipes]
    added = [{key for key in after if after[key] != before[key]} - {"task"}
             for before, after in zip(settings_of, settings_of[1:], strict=False)]  # fmt: skip
    adverse = dacs.is_adverse(dacs.parts(form)[1])
    assert {key.removeprefix("mix.") for key in added[0]} == {
        "ema_momentum", "rare_class_sampling", "feature_distance_weight", "feature_distance_classes",
        *(() if adverse else ("ignored_margins",)),
    }  # fmt: skip
    more = {"mix.mask_source", "mix.mask_strong"} if adverse else set()
    assert added[1] == {"mix.masked_weight", "mix.mask_block"} | more
    backbone, task = dacs.parts(form)
    assert form == backbone + ("" if task == "gta5" else f"_{task}") and settings_of[0]["model.backbone"] == backbone
    assert settings_of[0]["data.label_space"] == ("synthia16" if task == "synthia" else "cityscapes19")


@pytest.mark.parametrize("form", dacs.FORMS)
def test_two_resolutions_add_to_daformer_and_masks_to_both(form, tmp_path):
    (tmp_path / "weights").write_bytes(b"")
    recipes = [daformer.get_config(form), hrda.get_config(form), mic.get_config(f"{form}_hrda")]
    for recipe in recipes:
        settings.check(with_weights(recipe, tmp_path / "weights"))
    before, two, masked = map(leaves, recipes)
    adverse = dacs.is_adverse(dacs.parts(form)[1])
    assert {key for key in two if two[key] != before[key] and not key.startswith("data.")} == {
        "task", "views.crop_size", "model.detail_size", "mix.rare_class_crop_pixels",
        *(() if adverse else ("mix.ignored_margins", "mix.margins_of")),
    }  # fmt: skip
    more = {"mix.mask_source", "mix.mask_strong"} if adverse else set()
    assert {key for key in two if two[key] != masked[key]} == {"task", "mix.masked_weight"} | more
    contrasted = with_weights(sepico.get_config(form), tmp_path / "weights")
    settings.check(contrasted)
    assert contrasted.mix.contrast_weight == 1.0 and contrasted.mix.rare_class_sampling
    if "data.target.image_size" in two:
        assert two["data.target.image_size"] == tuple(2 * n for n in before["data.target.image_size"])


@pytest.mark.parametrize("form", ("resnet101_hrda", "mit_b5_acdc"))
def test_dfuda_adds_a_foundation_models_prototypes_to_mic(form, tmp_path):
    (tmp_path / "weights").write_bytes(b"")
    c = with_weights(dfuda.get_config(form), tmp_path / "weights")
    c.mix.foundation_file = str(tmp_path / "weights")
    settings.check(c)
    ours, theirs = leaves(c), leaves(with_weights(mic.get_config(form), tmp_path / "weights"))
    differing = {key for key in ours if ours[key] != theirs[key]}
    assert differing == {"task", "mix.foundation", "mix.foundation_file"}


@pytest.mark.parametrize("form", vfm_uda.FORMS)
def test_self_training_above_dinov2_is_possible(form, tmp_path):
    (tmp_path / "weights").write_bytes(b"")
    c = with_weights(vfm_uda.get_config(form), tmp_path / "weights")
    settings.check(c)
    assert c.views.crop_size == (1120, 1120) and c.model.backbone == dacs.parts(form)[0]
    slow = form in ("dinov2_vitl14", "dinov2_vitl14_synthia")
    assert c.mix.head_rate == pytest.approx((1e-5 if slow else 5e-5) * 8**0.5)
    assert c.mix.backbone_rate == pytest.approx(c.mix.head_rate / 10)


@pytest.mark.parametrize("form", cpsl.FORMS)
def test_cpsl_differs_from_proda_in_stage_1_alone(form, tmp_path):
    (tmp_path / "weights").write_bytes(b"")
    c = with_weights(cpsl.get_config(form), tmp_path / "weights")
    settings.check(c)
    ours, theirs = leaves(c), leaves(with_weights(cpsl.FORMS[form].get_config(), tmp_path / "weights"))
    assert {key for key in ours if ours[key] != theirs[key]} - {"task"} == {
        f"stage1.{name}" for name in ("prototype_distance", "temperature", "self_label_weight", "prototype_momentum",
                                      "head_rate", "consistency_weight", "queue_contrast_weight", "cutmix_share")
    }  # fmt: skip


@pytest.mark.parametrize("form", cbst.FORMS)
def test_rounds_of_self_training_are_possible_and_differ_from_cbsts_in_their_regulariser(form, tmp_path):
    (tmp_path / "weights").write_bytes(b"")
    recipes = [with_weights(config.get_config(form), tmp_path / "weights") for config in (cbst, mrkld, lrent)]
    for recipe in recipes:
        settings.check(recipe)
        assert [recipe[name].label_portion for name in recipe.stages[1:]] == list(cbst.PORTIONS)
        assert [recipe[name].init for name in recipe.stages] == ["imagenet", *recipe.stages[:-1]]
    plain, regularised, soft = map(leaves, recipes)
    added = {key.partition(".")[2] for key in plain if plain[key] != regularised[key]} - {""}
    assert added == {"regulariser_weight", "regulariser_over"}
    assert soft["round1.label_entropy"] == 0.25 and not soft["round1.hard_labels"]
    assert plain["data.label_space"] == {"gta5": "cityscapes19", "synthia": "synthia16"}[form]


@pytest.mark.parametrize("form", cbst.FORMS)
def test_fda_lends_amplitudes_in_each_of_its_stages(form, tmp_path):
    (tmp_path / "weights").write_bytes(b"")
    c = with_weights(fda.get_config(form), tmp_path / "weights")
    settings.check(c)
    assert all(c[name].fourier_beta > 0 and c[name].regulariser_weight == 0.005 for name in c.stages)
    c.round1.fourier_window = "corners"
    c.round1.fourier_beta = 0.001
    with pytest.raises(ValueError, match="config.round1.fourier_beta = 0.001: expected at least 0.00195"):
        settings.check(c)


@pytest.mark.parametrize("form", cbst.FORMS)
def test_anchors_are_those_of_the_stage_before(form, tmp_path):
    (tmp_path / "weights").write_bytes(b"")
    c = with_weights(cag.get_config(form), tmp_path / "weights")
    settings.check(c)
    assert [c[name].init for name in c.stages] == ["imagenet", *c.stages[:-1]]
    assert all(c[name].prototype_init == "source" for name in c.stages[1:])


@pytest.mark.parametrize("form", cbst.FORMS)
def test_bdls_networks_start_anew_on_translations_by_the_one_before_and_rounds_with_its_labels(form, tmp_path):
    (tmp_path / "weights").write_bytes(b"")
    c = with_weights(bdl.get_config(form), tmp_path / "weights")
    settings.check(c)
    turns = [(f"translation{k}", f"aligned{k}", f"round{k}_1", f"round{k}_2") for k in (1, 2)]
    assert c.stages == ("source", *turns[0], *turns[1])
    assert [c[turn[0]].teacher for turn in turns] == ["source", "round1_2"]
    for translation, *learning in turns:
        assert all(c[name].source_images == translation and c[name].init == "imagenet" for name in learning)
        assert [c[name].labels_from for name in learning] == [None, *learning[:-1]]
    c.round1_1.labels_from = "round1_2"  # which comes later
    with pytest.raises(ValueError, match="config.round1_1.labels_from = 'round1_2': expected one of source, aligned1"):
        settings.check(c)


# of a system's configuration: its forms, and the kinds of its stages
ADVERSARIAL = {
    adaptsegnet: (adaptsegnet.FORMS, ["warmup"]),
    advent: (deeplabv2.SOURCES, ["warmup", "warmup"]),
    cycada: (deeplabv2.SOURCES, ["supervised", "translate", "warmup"]),
    patchalign: (deeplabv2.SOURCES, ["warmup"]),
    apoda: (deeplabv2.SOURCES, ["warmup"]),
    clan: (deeplabv2.SOURCES, ["warmup"]),
    fada: (deeplabv2.SOURCES, ["supervised", "warmup", "distill"]),
    seg_uncertainty: (deeplabv2.SOURCES, ["warmup", "distill"]),
}


def test_what_the_systems_codes_say_is_what_their_configurations_have():
    """Batches, discriminators, sizes and ends of schedules, as the authors' codes have them."""
    aligned = [bdl.get_config()[name] for name in ("aligned1", "round1_1", "aligned2", "round2_2")]
    for stage in (*aligned, adaptsegnet.get_config("gta5").adaptsegnet):
        assert (stage.discriminator, stage.discriminator_weight) == ("fully_convolutional", 0.5)
        assert stage.batch_norm == "affine_frozen"
    ends = {form: (c.minent.steps, c.advent.schedule_steps) for form in deeplabv2.SOURCES
            for c in [advent.get_config(form)]}  # fmt: skip
    assert ends == {"gta5": (120_000, 250_000), "synthia": (90_000, 90_000)}
    for c, name, crop in ((cycada.get_config(), "translation", 400), (bdl.get_config(), "translation1", 452)):
        seen = views_of(c, name)
        assert (seen.base_width, tuple(seen.crop_size)) == (1024, (crop, crop)) and c.views.base_width == 0
    batches = {
        fada: {"source": 8, "fada": 4, "self_distillation": 8}, seg_uncertainty: {"memory": 2, "rectified": 9},
        cbst: {"source": 4, "round1": 1, "round3": 1}, lrent: {"source": 4, "round2": 1},
        bdl: {"source": 1, "translation2": 4, "aligned1": 1}, cycada: {"translation": 1, "cycada": 1},
    }  # fmt: skip
    for system, sizes in batches.items():
        c = system.get_config()
        assert {name: build.batch_size(c, name) for name in sizes} == sizes, system
    c = fada.get_config()
    c.fada.batch_size = 0
    with pytest.raises(ValueError, match="config.fada.batch_size = 0: expected at least 1"):
        ranges.check_stage(c, "fada", ("source",))


@pytest.mark.parametrize("system", ADVERSARIAL)
def test_adversarial_systems_are_possible_on_either_source(system, tmp_path):
    (tmp_path / "weights").write_bytes(b"")
    forms, kinds = ADVERSARIAL[system]
    for form in forms:
        c = with_weights(system.get_config(form), tmp_path / "weights")
        settings.check(c)
        assert [c[name].kind for name in c.stages] == kinds and c.data.source.name == form.split("_")[0]
        assert c.data.label_space == {"gta5": "cityscapes19", "synthia": "synthia16"}[c.data.source.name]
    with pytest.raises(ValueError, match="after the colon: expected"):
        system.get_config("cityscapes")


@pytest.mark.parametrize(("setting", "value", "said"), [
    ("model.auxiliary_head", "none", "adaptsegnet.auxiliary_ce_weight = 0.1: expected 0.0, as config.model.auxiliary"),
    ("adaptsegnet.auxiliary_ce_weight", 0.0, "expected above 0, as config.model.auxiliary_head is 'lower'"),
    ("adaptsegnet.adversarial_weight", 0.0, "expected above 0, or entropy_weight"),
    ("adaptsegnet.weight_divergence", 0.1, "expected 0.0 but of model.auxiliary_head 'parallel'"),
    ("adaptsegnet.adversarial_on", "features", "auxiliary_adversarial_weight = 0.0002: expected 0.0 on 'features'"),
    ("adaptsegnet.focus", 0.5, "expected 0, or at least 1"),
    ("adaptsegnet.local_after", 7, "expected 5000, as it acts beside local_weight above 0 alone"),
    ("adaptsegnet.soft_label_limit", 0.5, "expected 0.9, as it acts beside gan 'classes' alone"),
    ("model.auxiliary_head", "upper", "model.auxiliary_head = 'upper': expected one of"),
    ("model.head", "daformer", "as head 'daformer' takes all maps"),
    ("stages", ("source",), "'none', as no stage trains a second head"),
])  # fmt: skip
def test_adversarial_settings_that_cannot_work_are_refused(setting, value, said, tmp_path):
    (tmp_path / "weights").write_bytes(b"")
    c = with_weights(adaptsegnet.get_config("gta5_multi"), tmp_path / "weights")
    c.source = base.supervised("random", 1)
    c.update_from_flattened_dict({setting: value})
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        settings.check(c)


def test_camvids_stage_on_mixed_images_sees_as_much_as_stages_1_to_3():
    c = camvid.get_config()
    c.stages = ("source", "mix")
    settings.check_stage(c, "mix", ("source",))
    assert c.mix.steps == c.stage1.steps + c.stage2.steps + c.stage3.steps and c.mix.init == "source"


def test_camvid_large_is_larger_and_nothing_else_is_accepted():
    small, large = camvid.get_config("scratch"), camvid.get_config("large")
    settings.check(large)
    assert large.views.crop_size[0] > small.views.crop_size[0] and large.model.width > small.model.width
    with pytest.raises(ValueError, match="camvid.py:huge: expected"):
        camvid.get_config("huge")


def test_folders_of_ones_own_need_no_file_of_weights_in_their_light_form():
    c = custom.get_config("lite")
    settings.check(c)
    assert c.stages == ("source", "mix") and c.source.init == "imagenet" and c.model.imagenet_weights is None
    with pytest.raises(ValueError, match="custom.py:light: expected"):
        custom.get_config("light")


@pytest.mark.parametrize("form", camvid.FORMS)
def test_the_smallest_camvid_photograph_still_fills_a_crop(form):
    c = camvid.get_config(form)
    height, width = c.data.target.image_size
    smallest = views_of(c, c.stages[0]).base_width * c.views.scale[0]
    assert height * smallest / width >= c.views.crop_size[0] and smallest >= c.views.crop_size[1]


@pytest.mark.parametrize("task", [camvid, demo])
def test_what_needs_no_source_begins_with_a_network_that_is_named(task, tmp_path):
    c = task.get_config("source_free")
    assert c.data.source is None and c.stages == ("stage2",)
    with pytest.raises(ValueError, match="config.stage2.* = 'stage1': expected one of .*, or the path of a trained"):
        settings.check(c)
    network = tmp_path / "network"
    network.mkdir()
    c.stage2.teacher = c.stage2.init = str(network)
    given.name_networks(c)
    settings.check(c)
    usual = task.get_config()
    assert all(c.stage2[key] == usual.stage2[key] for key in ("steps", "statistics", "target_view"))


@pytest.mark.parametrize("name", ["camvid", "studies.demo"])
def test_self_training_and_stage_1_are_compared_on_equal_terms(name):
    c = importlib.import_module(f"proda_jax.configs.{name}").get_config()
    training = ("init", "steps", "backbone_rate", "head_rate", "schedule_steps", "jitter")
    labels = ("labels_from", "label_scales", "label_flip", "soft_label_stride", "soft_label_interpolation")
    for setting in training + labels:
        assert c.self_training[setting] == c.stage1[setting], setting


def test_no_setting_is_without_a_reader():
    files = [*(ROOT / "proda_jax").rglob("*.py"), *(ROOT / "data_prep").glob("*.py")]
    code = "\n".join(path.read_text() for path in files if path.name != "settings.py")
    c = gta5.get_config()
    c.source, c.mix = base.supervised("random", 1), base.mix("source", 1)
    indirect = {"brightness", "contrast", "saturation", "white_balance"}  # handed on as **stage.jitter
    indirect |= {"imagenet_weights", "self_supervised_weights"}  # read as f"{init}_weights"
    indirect |= {"source", "target", "validation"}  # roles of c.data
    indirect |= {"hue", "jitter_probability", "blur_probability", "blur_sigma"}  # handed on as **stage.strong
    indirect |= {"mixed_weight"}  # read as f"{name}_weight"
    names = {key.split(".")[-1] for key in leaves(c)} - indirect
    unread = [name for name in sorted(names) if not any(form in code for form in (f".{name}", f'"{name}"'))]
    assert unread == []

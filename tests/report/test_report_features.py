"""Features in two dimensions: what is mapped when, and which classes stand out."""

import sys

import numpy as np
import pytest
from fake_workdir import fake_config, fake_workdir
from report_pages import first_two

from proda_jax.data.label_spaces import LABEL_SPACES
from proda_jax.report import embedding
from proda_jax.report.content import Folder
from proda_jax.report.run import read

SPACE = LABEL_SPACES["cityscapes19"]


def test_features_are_mapped_again_once_they_change(tmp_path, monkeypatch):
    fake_workdir(tmp_path, fake_config(("source", "stage1")), images=1, size=(48, 96))
    mapped = []
    monkeypatch.setattr(embedding, "_umap", lambda name, vectors: mapped.append(name) or first_two(name, vectors))
    folder = Folder(tmp_path / "report")
    embedding.features(read(tmp_path), folder)
    assert mapped == ["source", "stage1"]
    features = np.load(tmp_path / "stage1" / "snapshots" / "150.npz")["features"]
    kept = embedding.embedded({"stage1": features}, folder)["stage1"]
    assert mapped == ["source", "stage1"]
    np.testing.assert_array_equal(kept[1], features[:, :2].astype(np.float64))
    changed = embedding.embedded({"stage1": features + np.float16(1)}, folder)["stage1"]
    assert mapped == ["source", "stage1", "stage1"] and changed[0] != kept[0]


def test_without_umap_the_page_says_so(tmp_path, monkeypatch):
    fake_workdir(tmp_path, fake_config(("source",)), images=1, size=(48, 96))
    monkeypatch.setitem(sys.modules, "umap", None)  # so that it cannot be imported
    section = embedding.features(read(tmp_path), Folder(tmp_path / "report"))
    assert len(section.missing) == 1 and "umap-learn is needed" in section.missing[0]


def test_the_four_highlighted_classes_are_the_papers_or_the_most_frequent():
    classes = np.array([2] * 3 + [5] + [7] * 2 + [8] + [0] * 9)
    assert list(embedding.highlighted(SPACE, classes)) == [2, 7, 5, 8]
    without = np.array([2] * 3 + [0] * 9 + [10] * 2 + [13])
    assert list(embedding.highlighted(SPACE, without)) == [2, 0, 10, 13]


def test_a_umap_whose_own_imports_fail_is_left_out_as_well(tmp_path, monkeypatch):
    (tmp_path / "umap.py").write_text("raise RuntimeError('made for another PyTorch')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "umap", raising=False)
    with pytest.raises(ImportError, match="umap-learn cannot be imported: made for another PyTorch"):
        embedding._umap("source", np.zeros((4, 2)))


def test_what_umap_brings_besides_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "umap").mkdir()
    (tmp_path / "umap" / "__init__.py").write_text(
        "try:\n    from .parametric_umap import ParametricUMAP\nexcept ImportError:\n    pass\n"
        "class UMAP:\n    __init__ = lambda self, **settings: None\n    fit_transform = lambda self, x: x[:, :2]\n"
    )
    (tmp_path / "umap" / "parametric_umap.py").write_text("raise RuntimeError('made for another PyTorch')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "umap"]:
        monkeypatch.delitem(sys.modules, name)
    np.testing.assert_array_equal(embedding._umap("source", np.ones((4, 3))), np.ones((4, 2)))
    assert "umap.parametric_umap" not in sys.modules  # who wants it may still import it
    monkeypatch.delitem(sys.modules, "umap")


@pytest.mark.slow
def test_umap_keeps_apart_what_is_apart_and_repeats_itself(tmp_path):
    """The real one, which takes half a minute to import and compile."""
    generator = np.random.default_rng(0)
    of = np.repeat([0, 1], 40)
    features = (generator.normal(size=(80, 16)) + 8 * of[:, None]).astype(np.float16)
    places = [embedding.embedded({"stage1": features}, Folder(tmp_path / str(i)))["stage1"][1] for i in range(2)]
    np.testing.assert_array_equal(*places)
    inside = max(np.linalg.norm(places[0][of == c] - places[0][of == c].mean(0), axis=1).max() for c in (0, 1))
    assert np.linalg.norm(places[0][of == 0].mean(0) - places[0][of == 1].mean(0)) > inside

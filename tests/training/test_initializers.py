"""Initializers: what they draw has the distribution that they promise."""

from __future__ import annotations

import re

import numpy as np
import pytest

import cnnext as cx
from cnnext.layers.layer import ParameterSpec
from cnnext.training.initializers import INITIALIZERS, TRUNCATED_STDDEV, initialize

SPEC = ParameterSpec((3, 3, 40, 80), fan_in=360, fan_out=720)
N = 3 * 3 * 40 * 80


def drawn(initializer, spec=SPEC):
    cx.set_random_seed(7)
    array = initialize(ParameterSpec(spec.shape, initializer, spec.fan_in, spec.fan_out), "test")
    assert array.shape == spec.shape and array.dtype == np.float32
    return array.astype(np.float64)


@pytest.mark.parametrize(("initializer", "mean", "stddev", "largest"), [
    ("glorot_uniform", 0, (2 / 1080) ** 0.5, (6 / 1080) ** 0.5), ("glorot_normal", 0, (2 / 1080) ** 0.5, None),
    ("he_uniform", 0, (2 / 360) ** 0.5, (6 / 360) ** 0.5), ("he_normal", 0, (2 / 360) ** 0.5, None),
    ("lecun_uniform", 0, (1 / 360) ** 0.5, (3 / 360) ** 0.5), ("lecun_normal", 0, (1 / 360) ** 0.5, None),
    ("random_normal", 0, 0.05, None), ("random_uniform", 0, 0.05 / 3**0.5, 0.05),
    ("truncated_normal", 0, 0.05 * TRUNCATED_STDDEV, 0.1),
    (cx.RandomNormal(2.0, 0.5), 2, 0.5, None), (cx.RandomUniform(1.0, 3.0), 2, 1 / 3**0.5, 3),
    (cx.TruncatedNormal(1.0, 2.0), 1, 2 * TRUNCATED_STDDEV, 5),
    (cx.VarianceScaling(3.0, "fan_out", "uniform"), 0, (3 / 720) ** 0.5, (9 / 720) ** 0.5),
    (cx.VarianceScaling(), 0, (1 / 360) ** 0.5, 2 * (1 / 360) ** 0.5 / TRUNCATED_STDDEV),
])
def test_mean_deviation_and_reach(initializer, mean, stddev, largest):
    array = drawn(initializer)
    # six standard errors of the mean; of the deviation, whose own are at most stddev / sqrt(2 n), too
    assert array.mean() == pytest.approx(mean, abs=6 * stddev / N**0.5)
    assert array.std() == pytest.approx(stddev, abs=6 * stddev / (2 * N) ** 0.5)
    reach = np.abs(array).max()
    if largest is None:
        assert np.abs(array - mean).max() > 3.5 * stddev    # tails
    else:
        assert 0.97 * largest < reach <= largest * (1 + 1e-6)


def test_truncated_and_untruncated_have_one_deviation():
    one, other = (drawn(cx.VarianceScaling(2.0, "fan_in", kind)) for kind in ("truncated_normal", "untruncated_normal"))
    assert one.std() == pytest.approx(other.std(), rel=0.02)
    assert np.abs(one).max() < np.abs(other).max()


@pytest.mark.parametrize(("initializer", "value"), [("zeros", 0), ("ones", 1), (cx.Constant(-0.75), -0.75)])
def test_constants(initializer, value):
    assert (drawn(initializer) == value).all()


@pytest.mark.parametrize("shape", [(30, 30), (50, 20), (20, 50), (3, 3, 4, 17), (1, 1, 8, 64)])
def test_orthogonal(shape):
    matrix = drawn(cx.Orthogonal(2.0), ParameterSpec(shape)).reshape(-1, shape[-1])
    rows, columns = matrix.shape
    gram = matrix.T @ matrix if rows >= columns else matrix @ matrix.T
    np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-5)


def test_orthogonal_has_no_preferred_signs():
    cx.set_random_seed(0)
    first = [initialize(ParameterSpec((4, 4), "orthogonal"), "test")[0, 0] for _ in range(400)]
    assert 140 < sum(x > 0 for x in first) < 260     # six standard deviations of 400 coins


def test_identity():
    np.testing.assert_array_equal(drawn("identity", ParameterSpec((3, 5))), np.eye(3, 5))
    net = cx.Sequential([cx.Conv2D(2, 3, padding="same", kernel_initializer="identity")], input_shape=(5, 6, 2))
    x = np.random.default_rng(0).normal(size=(1, 5, 6, 2)).astype(np.float32)
    np.testing.assert_array_equal(net.predict(x), x)


@pytest.mark.parametrize("name", sorted(INITIALIZERS))
def test_one_seed_gives_the_same_bits(name):
    np.testing.assert_array_equal(drawn(name), drawn(name))


def test_arrays_and_functions():
    weights = np.arange(6).reshape(3, 2)
    layer = cx.Dense(2, kernel_initializer=weights, bias_initializer=lambda shape: np.full(shape, 5))
    net = cx.Sequential([layer], input_shape=(3,))
    assert np.array_equal(net.get_weights()[0], weights) and net.get_weights()[1].tolist() == [5, 5]


class Half(cx.Initializer):
    """Somebody's own."""

    def draw(self, spec):
        return np.full(spec.shape, 1 / spec.fan_in)


@pytest.mark.parametrize(("layer", "shape", "arguments"), [
    (cx.Conv2D, (6, 6, 4), {"filters": 3, "kernel_size": 2}), (cx.Conv1D, (6, 4), {"filters": 3, "kernel_size": 2}),
    (cx.Conv2DTranspose, (6, 6, 4), {"filters": 3, "kernel_size": 2}), (cx.Dense, (7,), {"units": 3}),
    (cx.LocallyConnected2D, (6, 6, 4), {"filters": 3, "kernel_size": 2}),
])
def test_layers_take_them(layer, shape, arguments):
    net = cx.Sequential([layer(**arguments, kernel_initializer=Half(), bias_initializer="ones")], input_shape=shape)
    weights, bias = net.get_weights()
    assert (weights == np.float32(1 / (7 if layer is cx.Dense else 8 if layer is cx.Conv1D else 16))).all()
    assert (bias == 1).all()


def test_depthwise_and_separable_layers_take_them():
    depthwise = cx.DepthwiseConv2D(3, depthwise_initializer="ones", bias_initializer=cx.Constant(2))
    separable = cx.SeparableConv2D(3, 3, depthwise_initializer="ones", pointwise_initializer=cx.Constant(2),
                                   bias_initializer=cx.Constant(3))
    net = cx.Sequential([depthwise, separable], input_shape=(9, 9, 2))
    assert [(w.min(), w.max()) for w in net.get_weights()] == [(1, 1), (2, 2), (1, 1), (2, 2), (3, 3)]


def test_files_keep_weights_and_not_how_they_began(tmp_path):
    net = cx.Sequential([cx.Dense(2, kernel_initializer=lambda shape: np.ones(shape))], input_shape=(3,))
    net.save(tmp_path / "net.safetensors")
    again = cx.load(tmp_path / "net.safetensors")
    assert again.layers[0].kernel_initializer == "glorot_uniform"
    assert (again.get_weights()[0] == 1).all()


@pytest.mark.parametrize(("make", "error", "text"), [
    (lambda: cx.Dense(2, kernel_initializer="he_norml", name="d"), ValueError,
     "dense 'd': unknown initializer 'he_norml'. Did you mean 'he_normal'?"),
    (lambda: cx.Dense(2, bias_initializer=3, name="d"), TypeError, "`bias_initializer` must be an initializer's name"),
    (lambda: cx.Dense(2, kernel_initializer=cx.Orthogonal, name="d"), TypeError, "`kernel_initializer` must be"),
    (lambda: cx.Dense(2, kernel_initializer=np.ones((2, 2)), name="d")(cx.Input((3,))), ValueError,
     "dense 'd', kernel_initializer: `array` must have shape (3, 2)."),
    (lambda: cx.Dense(2, bias_initializer="orthogonal")(cx.Input((3,))), ValueError, "`shape` must have rank 2 at least"),
    (lambda: cx.RandomNormal(stddev=-1), ValueError, "RandomNormal: `stddev` must be at least 0"),
    (lambda: cx.TruncatedNormal(float("nan")), ValueError, "TruncatedNormal: `mean` must be a finite number"),
    (lambda: cx.RandomUniform(1, 0), ValueError, "RandomUniform: `maxval` must be at least minval=1.0."),
    (lambda: cx.VarianceScaling(0), ValueError, "VarianceScaling: `scale` must be greater than 0"),
    (lambda: cx.VarianceScaling(mode="fan"), ValueError, "VarianceScaling: unknown mode 'fan'."),
    (lambda: cx.VarianceScaling(distribution="normal"), ValueError, "unknown distribution 'normal'."),
])
def test_what_is_wrong_is_said(make, error, text):
    with pytest.raises(error, match=re.escape(text)):
        make()

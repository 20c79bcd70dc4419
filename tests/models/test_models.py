"""All networks: parameters as published, shapes, results, and what is imported when."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

import cnnext as cx
from cnnext import models

# Trained parameters as torchvision publishes them (of its definitions; running statistics apart); U-Net by hand.
PARAMETERS = {
    "densenet121": 7_978_856,
    "efficientnet_b0": 5_288_548,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_large": 5_483_032,
    "mobilenet_v3_small": 2_542_856,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "squeezenet1_1": 1_235_496,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "unet": sum(9 * a * b + 9 * b * b + 4 * b for a, b in ((3, 32), (32, 64), (64, 128), (128, 256), (256, 512)))  # down
    + sum(4 * 2 * a * a + a + 9 * 2 * a * a + 9 * a * a + 4 * a for a in (32, 64, 128, 256)) + 32 * 2 + 2,  # up, head
}
NORMALIZED_VGG = {"vgg11": 132_868_840, "vgg13": 133_053_736, "vgg16": 138_365_992, "vgg19": 143_678_248}
SMALL = (32, 32, 3)     # the dense layers of VGG are then small
WITHOUT_PLUGIN = ("lenet5", "squeezenet1_1", "vgg11", "vgg13", "vgg16", "vgg19")


def make(name, *args, **options):
    if name not in WITHOUT_PLUGIN or options.get("batch_norm"):
        pytest.importorskip("cnnext_normalization")
    cx.set_random_seed(0)
    return getattr(models, name)(*args, **options)


def trained(net):
    return sum(p.data.size for p in net.parameters if p.trainable)


def test_every_network_is_listed():
    assert set(models.__all__) == {*PARAMETERS, "lenet5"} == set(dir(models))
    with pytest.raises(AttributeError, match=re.escape("unknown network 'resnet81'. Did you mean 'resnet18'?")):
        _ = models.resnet81


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    net = make(name)
    assert trained(net) == PARAMETERS[name]
    assert net.output_shape == ((None, 256, 256, 2) if name == "unet" else (None, 1000))
    assert f"{PARAMETERS[name]:,} parameters" in getattr(models, name).__doc__


@pytest.mark.parametrize("name", NORMALIZED_VGG)
def test_parameters_with_normalization(name):
    more = trained(make(name, 5, SMALL, batch_norm=True)) - trained(make(name, 5, SMALL))
    assert PARAMETERS[name] + more == NORMALIZED_VGG[name]
    assert f"{NORMALIZED_VGG[name]:,}" in getattr(models, name).__doc__


@pytest.mark.parametrize("name", PARAMETERS)
def test_results_do_not_depend_on_batch_or_threads(name):
    net = make(name, 5, (64, 64, 3))
    x = np.random.default_rng(1).standard_normal((3, 64, 64, 3), np.float32)
    net.num_threads = 1
    one = net.predict(x)
    assert one.shape == ((3, 64, 64, 5) if name == "unet" else (3, 5))
    assert np.isfinite(one).all() and not np.array_equal(one[0], one[1])
    net.num_threads = 2
    np.testing.assert_array_equal(net.predict(x), one)
    scale = np.abs(one).max()
    np.testing.assert_allclose(net.predict(x, batch_size=1), one, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(("name", "size"), [("squeezenet1_1", 25), ("densenet121", 29), ("vgg16", 32)])
def test_the_smallest_image(name, size):
    assert f"At least {size} rows and columns" in getattr(models, name).__doc__
    assert make(name, 2, (size, size, 3)).output_shape == (None, 2)
    with pytest.raises(ValueError, match="`pool_size` must fit on the padded source"):
        make(name, 2, (size - 1, size, 3))


def test_a_family_is_imported_when_it_is_used():
    program = ("import sys, cnnext as cx; cx.models.lenet5(); "
               "print(*[m for m in sys.modules if m.startswith('cnnext.models.') or m == 'entrypoints'])")
    done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, check=True)
    assert done.stdout.split() == ["cnnext.models.lenet"]


def test_no_module_has_the_name_of_a_network():
    assert not [name for name in models.__all__ if find_spec(f"cnnext.models.{name}")]

"""``cnnext plugins``: list, check, doctor, and new packages that install and pass at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cnnext
from cnnext import plugins
from cnnext.cli import main
from tests.plugins.site import NUMPY_LAYER, install

ROOT = str(Path(cnnext.__file__).parents[1])


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins._load.cache_clear()
    yield tmp_path
    plugins._load.cache_clear()
    sys.modules.pop("acme_layers", None)


def test_list(site, capsys):
    install(site)
    assert main(["plugins", "list"]) == 0
    assert "acme/Double@1  acme-layers 1.2.3  acme_layers:Double\n" in capsys.readouterr().out
    assert main(["plugins", "list", "--json"]) == 0
    assert {"name": "acme/Double@1", "distribution": "acme-layers", "version": "1.2.3",
            "target": "acme_layers:Double"} in json.loads(capsys.readouterr().out)


def test_check_prints_a_report_card(site, capsys):
    install(site)
    assert main(["plugins", "check", "acme/Double"]) == 0
    assert "acme-layers 1.2.3" in capsys.readouterr().out
    assert main(["plugins", "check", "Conv2D", "--set", "filters=3", "--set", "kernel_size=[3,1]", "--set",
                 "padding=same", "--shape", "1,5,6,2", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["layer"] == "Conv2D(filters=3, kernel_size=(3, 1), padding='same')" and card["ok"]


def test_check_fails_for_a_wrong_layer(site, capsys):
    install(site, NUMPY_LAYER.replace("[2 * dy]", "[3 * dy]"))
    assert main(["plugins", "check", "acme/Double"]) == 1
    printed = capsys.readouterr()
    assert "differs from central differences" in printed.out and "does not keep" in printed.err


@pytest.mark.parametrize("arguments", [["--shape", "1,x"], ["--set", "filters"], ["--set", "nonsense=1"]])
def test_check_refuses_wrong_arguments(arguments, capsys):
    assert main(["plugins", "check", "ReLU", *arguments]) == 1
    assert capsys.readouterr().err.startswith("cnnext plugins: ")


def test_doctor(site, capsys):
    install(site)
    main(["plugins", "doctor"])
    assert "fine   acme-layers 1.2.3" in capsys.readouterr().out
    install(site, "import nonsense_that_is_missing", package="acme_broken",
            entry_points="[cnnext.layers]\nacme/Broken@1 = acme_broken:Broken\nWrong = x:y\n")
    assert main(["plugins", "doctor"]) == 1
    text = capsys.readouterr().out
    assert "fine   acme-layers 1.2.3" in text
    assert "cannot be imported: ModuleNotFoundError" in text and "must read vendor/Layer@version" in text


@pytest.mark.parametrize("name", ["cnnext/Swirl", "Not a name", "acme/class", "Acme/Swirl"])
def test_new_refuses_wrong_names(tmp_path, name, capsys):
    assert main(["plugins", "new", name, "--folder", str(tmp_path)]) == 1
    assert "`name` must" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("level", ["compose", "numpy", "native"])
def test_a_new_package_installs_and_passes(tmp_path, level):
    assert main(["plugins", "new", "acme/SwirlTwice", "--level", level, "--folder", str(tmp_path)]) == 0
    assert main(["plugins", "new", "acme/SwirlTwice", "--level", level, "--folder", str(tmp_path)]) == 1
    package, target = tmp_path / "cnnext-acme", tmp_path / "installed"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(target), ROOT])}

    def call(*arguments: str) -> str:
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=environment, text=True,
                              capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    call("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(target),
         str(package))
    assert "17 of 17 checks" in call("-c", CHECK)
    passed = "66 passed, 2 skipped" if level == "compose" else "64 passed, 4 skipped"   # its parts have rows by themselves
    assert passed in call("-m", "pytest", "-q", "-p", "no:cacheprovider", str(package / "tests"))
    assert "trained, saved, loaded" in call("-c", TRAIN)


CHECK = "import sys, cnnext.cli; sys.exit(cnnext.cli.main(['plugins', 'check', 'SwirlTwice']))"
TRAIN = """
import numpy as np, cnnext as cx
x = np.random.default_rng(1).normal(size=(64, 6, 6, 2)).astype(np.float32)
y = x.mean((1, 2))
net = cx.Sequential([cx.Conv2D(4, 3), cx.layer("acme/SwirlTwice")(), cx.ReLU(), cx.Flatten(), cx.Dense(2)],
                    input_shape=(6, 6, 2))
net.compile("adam", "mse")
losses = net.fit(x, y, batch_size=16, epochs=10, verbose=0).history["loss"]
assert losses[-1] < 0.5 * losses[0], losses
net.save("net.safetensors")
again = cx.load("net.safetensors")
assert (again.predict(x) == net.predict(x)).all()
scale = net.get_weights()[2]
assert scale.shape == (4,) and (scale != 1).all()
print("trained, saved, loaded")
"""

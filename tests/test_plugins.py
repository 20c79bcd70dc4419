"""Discovery of plugins, and what faulty ones do: each is contained and named, and the engine works afterwards."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import cnnext as cx
from cnnext import plugins
from cnnext.testing import run_layer
from tests.plugins.site import DOUBLES, NUMPY_LAYER, install, native_layer

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
OWNER = r"acme-layers 1\.2\.3, entry point acme/Double@1 = acme_layers:Double"


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("CNNEXT_PLUGINS", raising=False)
    monkeypatch.delenv("CNNEXT_PLUGIN_PREFER", raising=False)
    plugins._load.cache_clear()
    yield tmp_path
    plugins.prefer()
    plugins._load.cache_clear()
    for name in [name for name in sys.modules if name.startswith("acme")]:
        del sys.modules[name]
    net = cx.Sequential([cx.Conv2D(2, 3), cx.ReLU()], input_shape=(5, 5, 1))  # the engine is usable afterwards
    assert net.predict(np.ones((1, 5, 5, 1), np.float32)).shape == (1, 3, 3, 2)


def result(name="acme/Double@1"):
    return run_layer(cx.layer(name)(), [X]).outputs[0]


def model():
    return cx.Sequential([cx.layer("acme/Double")(name="twice"), cx.Flatten(), cx.Dense(2)], input_shape=(3, 4))


# Names


@pytest.mark.parametrize("name", ["acme/Double@1", "acme/Double", "Double"])
@pytest.mark.parametrize("source", [NUMPY_LAYER, native_layer()], ids=["numpy", "native"])
def test_an_installed_layer_is_found_by_its_names(site, name, source):
    install(site, source)
    np.testing.assert_array_equal(result(name), 2 * X)


def test_nothing_is_imported_before_it_is_used(site):
    install(site, "raise RuntimeError('imported')")
    assert [p.name for p in plugins.installed() if p.distribution == "acme-layers"] == ["acme/Double@1"]
    assert "acme_layers" not in sys.modules


def test_import_of_cnnext_reads_no_entry_points(site):
    install(site)
    code = "import sys, cnnext; cnnext.Conv2D; assert 'entrypoints' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_of_cnnext_looks_at_no_distribution(site):
    for i in range(50):
        install(site, "raise RuntimeError('imported')", package=f"acme{i}",
                entry_points=f"[cnnext.layers]\nacme{i}/Double@1 = acme{i}:Double\n")
    code = ("import sys\n"
            "opened = []\n"
            "sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == 'open' else None)\n"
            "import cnnext\n"
            "cnnext.Conv2D(1, 1)\n"
            "assert not [path for path in opened if 'entry_points' in path or 'dist-info' in path], opened\n"
            "assert not [name for name in sys.modules if name.startswith('acme')]\n"
            "assert sum(path.startswith('acme') for path in map(str, cnnext.plugins.installed())) == 50\n"
            "assert [path for path in opened if 'entry_points' in path], 'the hook sees what is read'\n")
    subprocess.run([sys.executable, "-c", code], check=True,
                   env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *filter(None, sys.path)])})


def test_without_a_version_the_newest_is_meant(site):
    both = NUMPY_LAYER + NUMPY_LAYER.replace("Double(", "Double10(").replace("@1", "@10").replace("2 *", "20 *")
    install(site, both, entry_points="[cnnext.layers]\nacme/Double@10 = acme_layers:Double10\n"
                                     "acme/Double@1 = acme_layers:Double\n")
    np.testing.assert_array_equal(result("acme/Double"), 20 * X)
    np.testing.assert_array_equal(result("acme/Double@1"), 2 * X)


def test_a_new_distribution_is_seen_at_once(site):
    with pytest.raises(cx.PluginError, match="No installed distribution"):
        cx.layer("acme/Double")
    install(site)
    np.testing.assert_array_equal(result(), 2 * X)


def test_a_short_name_of_two_vendors_is_refused(site):
    install(site)
    install(site, NUMPY_LAYER.replace("acme/", "acmf/"), package="acmeother",
            entry_points="[cnnext.layers]\nacmf/Double@1 = acmeother:Double\n")
    with pytest.raises(cx.PluginError, match="may be acme/Double or acmf/Double: write one"):
        cx.layer("Double")
    np.testing.assert_array_equal(result("acmf/Double"), 2 * X)


# Permission and preference


@pytest.mark.parametrize(("setting", "allowed"), [("all", True), ("none", False), ("other,Acme_Layers", True),
                                                  ("other", False)])
def test_the_environment_says_which_plugins_may_be_used(site, monkeypatch, setting, allowed):
    install(site)
    monkeypatch.setenv("CNNEXT_PLUGINS", setting)
    if allowed:
        np.testing.assert_array_equal(result(), 2 * X)
        return
    assert plugins.installed() == []
    with pytest.raises(cx.PluginError, match=f"CNNEXT_PLUGINS={setting} leaves out"):
        cx.layer("acme/Double")


def test_a_clash_names_both_and_a_preference_decides(site, monkeypatch):
    install(site)
    install(site, NUMPY_LAYER.replace("2 *", "3 *"), package="acme_rival", version="4.5",
            entry_points="[cnnext.layers]\nacme/Double@1 = acme_rival:Double\n")
    with pytest.raises(cx.PluginError) as error:
        cx.layer("acme/Double")
    assert "acme-layers 1.2.3" in str(error.value) and "acme-rival 4.5" in str(error.value)
    monkeypatch.setenv("CNNEXT_PLUGIN_PREFER", "acme-rival")
    np.testing.assert_array_equal(result(), 3 * X)
    cx.plugins.prefer("acme_layers")
    np.testing.assert_array_equal(result(), 2 * X)


def test_built_in_layers_cannot_be_replaced(site):
    install(site, entry_points="[cnnext.layers]\ncnnext/Conv2D@1 = acme_layers:Double\nacme/ReLU@1 = acme_layers:Double\n")
    assert cx.layer("cnnext/Conv2D@1") is cx.Conv2D
    assert cx.layer("ReLU") is cx.ReLU
    assert any("cnnext/Conv2D@1" in fault for fault in plugins.scan().faults)


def test_a_registered_class_is_found_within_the_block_only(site):
    class Mine(cx.Layer):
        type_name = "acme/Mine@1"

    with plugins.registered(Mine):
        assert cx.layer("acme/Mine@1") is Mine
    with pytest.raises(cx.PluginError):
        cx.layer("acme/Mine@1")
    Mine.type_name = "cnnext/Conv2D@1"
    with pytest.raises(ValueError, match="vendor other than cnnext"), plugins.registered(Mine):
        pass


# Faulty plugins: found, but there is no class


@pytest.mark.parametrize(("source", "words"), [
    ("raise ImportError('libfoo.so.3 is missing')", "cannot be imported: ImportError: libfoo.so.3 is missing"),
    ("this is no Python", "cannot be imported: SyntaxError"),
    ("import sys; sys.exit(3)", "cannot be imported: SystemExit: 3"),
    ("Single = 1", "cannot be imported: AttributeError"),
    ("def Double(): pass", "must name a subclass of cnnext.Layer. Received function"),
    ("class Double: pass", "must name a subclass of cnnext.Layer. Received type"),
    (NUMPY_LAYER.replace("acme/Double@1", "acme/Double@2"), "`type_name` must be 'acme/Double@1'"),
])
def test_a_class_that_cannot_be_had_is_named(site, source, words):
    install(site, source)
    with pytest.raises(cx.PluginError, match=words) as error:
        cx.layer("acme/Double")
    assert error.match(OWNER) and error.match("pip install --force-reinstall acme-layers")


@pytest.mark.parametrize(("entry_points", "words"), [
    ("[cnnext.layers]\nacme/Bad@1 = not a module\n", r"acme_broken 0\.1: the entry point acme/Bad@1 = not a module"),
    ("[cnnext.layers]\nno equals sign\n", r"acme_broken 0\.1: its entry points cannot be read"),
    ("[cnnext.layers]\na/B@1 = x:B\na/B@1 = y:B\n", r"acme_broken 0\.1: its entry points cannot be read"),
    ("[cnnext.layers]\nBad = acme_broken:Bad\n", r"acme-broken 0\.1.*must read vendor/Layer@version"),
    ("[cnnext.layers]\nacme/Bad@1 = acme_broken\n", r"acme-broken 0\.1.*must read module:Class"),
])
def test_a_wrong_entry_point_does_not_hide_the_others(site, entry_points, words):
    install(site)
    install(site, package="acme_broken", version="0.1", entry_points=entry_points)
    np.testing.assert_array_equal(result(), 2 * X)
    assert any(__import__("re").search(words, fault) for fault in plugins.scan().faults), plugins.scan().faults


# Faulty plugins: the class breaks the contract


RULE = "return shapes[0]"
FAULTS = {
    "raises in its shape rule": (NUMPY_LAYER.replace(RULE, "return 1 // 0"), "its shape rule raised ZeroDivisionError"),
    "shape rule returns nonsense": (NUMPY_LAYER.replace(RULE, "return ('a', 2)"), "return extents"),
    "raises in parameters": (NUMPY_LAYER + "    def parameters(self, *shapes):\n        raise KeyError('x')",
                             "its parameters raised KeyError"),
    "wrong shape": (NUMPY_LAYER.replace("2 * x", "x[:1]"), "return an array of shape"),
    "wrong dtype": (NUMPY_LAYER.replace("2 * x", "x > 0"), "return floats"),
    "wrong number of outputs": (NUMPY_LAYER.replace("2 * x", "[x, x]"), r"return 1 array\(s\)"),
    "returns nothing": (NUMPY_LAYER.replace("2 * x", "None"), "its forward raised TypeError"),
    "raises in forward": (NUMPY_LAYER.replace("2 * x", "x.nonsense"), "its forward raised AttributeError"),
    "raises in backward": (NUMPY_LAYER.replace("[2 * dy]", "[dy / undefined]"), "its backward raised NameError"),
    "raises in compose": (NUMPY_LAYER + "    def compose(self, g, x, weights):\n        return x.nonsense",
                          "its compose rule raised AttributeError"),
    "composes another shape": (
        NUMPY_LAYER + "    def compose(self, g, x, weights):\n"
                      "        from cnnext import Concat\n        return g.apply1(Concat(), x, x)",
        r"return values of the shapes \[\(2, 3, 4\)\]"),
    "raises in lower": (NUMPY_LAYER + "    def lower(self, b, node):\n        b.step('nonsense', [], [])",
                        "its lowering rule raised KeyError"),
}


def with_method(text: str) -> str:
    return NUMPY_LAYER + "".join(f"    {line}\n" for line in text.splitlines())


FAULTS |= {
    "parameters of no kind": (with_method("def parameters(self, *shapes):\n    return {'scale': (3,)}"),
                              "must return a ParameterSpec for each name"),
    "an initializer from nowhere": (
        with_method("def parameters(self, *shapes):\n    from cnnext.layers.layer import ParameterSpec\n"
                    "    return {'scale': ParameterSpec((4,), 'nonsense')}"), "'nonsense'"),
    "raises in its dtype rule": (with_method("def output_dtypes(self, *dtypes):\n    return dtypes.nonsense"),
                                 "its output_dtypes raised AttributeError"),
    "dtypes for other outputs": (with_method("def output_dtypes(self, *dtypes):\n    return [*dtypes, *dtypes]"),
                                 "must return 1, one for each output"),
    "raises in gradient": (with_method("def gradient(self, g, node, dy):\n    return 1 // 0"),
                           "its gradient rule raised ZeroDivisionError"),
    "gradient returns nothing": (with_method("def gradient(self, g, node, dy):\n    pass"),
                                 "its gradient rule raised AttributeError"),
    "gradients of more inputs": (
        with_method("def gradient(self, g, node, dy):\n    from cnnext.layers.layer import Gradients\n"
                    "    return Gradients([dy, dy])"), "return 1 gradients of inputs"),
    "gradients of unknown weights": (
        with_method("def gradient(self, g, node, dy):\n    from cnnext.layers.layer import Gradients\n"
                    "    return Gradients([dy], {'scale': dy})"), "and of weights among"),
    "a gradient of another shape": (
        with_method("def gradient(self, g, node, dy):\n    from cnnext import Concat\n"
                    "    from cnnext.layers.layer import Gradients\n    return Gradients([g.apply1(Concat(), dy, dy)])"),
        r"`gradient` must return the shape of x0, \(2, 3, 4\)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_layer_that_breaks_the_contract_is_named(site, fault):
    source, words = FAULTS[fault]
    install(site, source)
    with pytest.raises(cx.PluginError, match=words) as error:
        run_layer(cx.layer("acme/Double")(name="mine"), [X], [X])
    assert "'mine'" in str(error.value)
    assert error.match(OWNER)


@pytest.mark.parametrize(("method", "words"), [
    ("def as_epilogue(self):\n    return 1 // 0", "its as_epilogue raised ZeroDivisionError"),
    ("def as_epilogue(self):\n    return 'nonsense', ()", "unknown function 'nonsense'"),
    ("def as_affine(self, g, node):\n    return 1 // 0", "its as_affine raised ZeroDivisionError"),
    ("def as_affine(self, g, node):\n    return 3", "its as_affine raised TypeError"),
    ("def view(self, node, src):\n    return src.nonsense", "its view raised AttributeError"),
])
def test_a_layer_that_cannot_be_fused_is_named(site, method, words):
    install(site, with_method(method))
    net = cx.Sequential([cx.Conv2D(2, 3), cx.layer("acme/Double")(name="mine"), cx.Softmax()], input_shape=(5, 5, 1))
    with pytest.raises(cx.PluginError, match=words) as error:
        net.predict(np.ones((1, 5, 5, 1), np.float32))
    assert "'mine'" in str(error.value) and error.match(OWNER)


def test_what_a_layer_says_of_its_arguments_passes_unchanged(site):
    install(site, NUMPY_LAYER.replace(RULE, "raise self.error('src', 'have rank 4', shapes[0])"))
    with pytest.raises(ValueError, match=r"`src` must have rank 4\. Received src=\(2, 3, 4\)\.$"):
        result()


@pytest.mark.parametrize(("source", "words"), [
    (native_layer(abi=7), "was built for ABI 7"),
    (native_layer("return 42"), "error code 42"),
    (native_layer("ctypes.memset(args.dst[0].data, 0, 4 * 24 + 4)\n    return 0"), "wrote outside"),
    (native_layer("ctypes.memset(args.dst[0].data - 8, 0, 4 * 24)\n    return 0"), "wrote outside"),
    (native_layer("ctypes.memset(args.src[0].data, 0, 4 * 24)\n    return 0"), "changed the input"),
    (native_layer().replace('b"cnnext.kernel.v1"', 'b"cnnext.kernel.v9"'), "capsule"),
], ids=["wrong ABI", "bad return code", "writes behind", "writes before", "writes into its input", "wrong capsule"])
def test_a_faulty_kernel_is_named(site, source, words):
    install(site, source)
    with pytest.raises((cx.KernelError, cx.PluginError), match=words) as error:
        result()
    assert "acme-layers 1.2.3" in str(error.value)


def test_a_kernel_that_writes_outside_is_named_between_others_too(site):
    install(site, native_layer("ctypes.memset(args.dst[0].data, 0, 4 * 24 + 4)\n    return 0"))
    layer = cx.layer("acme/Double")(name="mine")
    x = cx.Input((3, 4))
    graph = cx.Model(x, cx.ReLU()(layer(cx.Sigmoid()(x)))).graph
    from cnnext.graph.passes import optimize, prepare

    with pytest.raises(cx.KernelError, match=r"mine \(double of acme-layers 1\.2\.3\)"):
        cx.testing.run_graph(optimize(prepare(graph, [X.shape], training=False)), [X])


@pytest.mark.parametrize("n_floats", [25, 24])
def test_a_switch_puts_guard_zones_into_every_run(site, monkeypatch, n_floats):
    install(site, native_layer(f"ctypes.memset(args.dst[0].data, 0, 4 * {n_floats})\n    return 0"))
    monkeypatch.setenv("CNNEXT_GUARD", "1")
    for after in ([], [cx.ReLU()]):
        net = cx.Sequential([cx.layer("acme/Double")(name="mine"), *after], input_shape=(3, 4))
        if n_floats == 24:
            assert not net.predict(X).any()
            continue
        with pytest.raises(cx.KernelError, match=r"mine \(double of acme-layers 1\.2\.3\)"):
            net.predict(X)


# A model whose plugin is gone


def test_a_model_with_a_missing_plugin_can_be_looked_at(site, tmp_path, monkeypatch):
    install(site)
    net = model()
    net.save(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(cx.load(tmp_path / "net.safetensors").predict(X), net.predict(X))
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(site)])
    lost = cx.load(tmp_path / "net.safetensors")
    assert "missing acme/Double@1" in lost.summary(show=False)
    assert lost.output_shape == (None, 2)
    for a, b in zip(lost.get_weights(), net.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(cx.PluginError, match=r"acme/Double@1 'twice'.*pip install acme-layers==1\.2\.3"):
        lost.predict(X)
    lost.compile("sgd", "mse")
    with pytest.raises(cx.PluginError, match="pip install"):
        lost.fit(X, np.ones((2, 2), np.float32), verbose=0)
    lost.save(tmp_path / "again.safetensors")
    monkeypatch.syspath_prepend(str(site))
    np.testing.assert_array_equal(cx.load(tmp_path / "again.safetensors").predict(X), net.predict(X))


def test_weights_of_a_missing_layer_are_kept(site, tmp_path, monkeypatch):
    install(site, NUMPY_LAYER + "    def parameters(self, *shapes):\n"
                                "        from cnnext.layers.layer import ParameterSpec\n"
                                "        return {'scale': ParameterSpec((shapes[0][-1],), 'ones')}")
    net = model()
    net.save(tmp_path / "net.safetensors")
    monkeypatch.setenv("CNNEXT_PLUGINS", "none")
    lost = cx.load(tmp_path / "net.safetensors")
    assert [w.shape for w in lost.get_weights()] == [(4,), (12, 2), (2,)]
    with pytest.raises(cx.PluginError, match="CNNEXT_PLUGINS"):
        lost.predict(X)


def test_a_doubled_kernel_agrees_in_a_trained_model(site, tmp_path):
    install(site)
    net = model()
    net.compile("sgd", "mse")
    net.fit(X, np.ones((2, 2), np.float32), epochs=2, verbose=0)
    net.save(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(cx.load(tmp_path / "net.safetensors").predict(X), net.predict(X))


def test_the_kernel_of_the_fixture_doubles(site):
    install(site, native_layer(DOUBLES))
    np.testing.assert_array_equal(result(), 2 * X)

"""Graph passes of plugins: found, run in order, compared, and blamed where they are wrong."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import cnnext as cx
from cnnext import plugins
from cnnext.cli import main
from cnnext.graph.passes import optimize, plugin_passes, prepare
from tests.helpers import branched_net, branched_twin, close, exact, images
from tests.plugins.site import NUMPY_LAYER, install

ENTRY = "[cnnext.passes]\nacme/relu-first = acme_passes:swap\n"
OWNER = r"acme-passes 1\.2\.3, entry point acme/relu-first = acme_passes:swap"

RELU_FIRST = '''
import cnnext as cx

calls = []

def swap(graph):
    calls.append(graph)

    def rule(g, node, inputs):
        pool = inputs[0].node if type(node.layer) is cx.ReLU else None
        if pool is None or type(pool.layer) is not cx.MaxPool2D:
            return None
        y = g.apply1(cx.ReLU(name=node.name), pool.inputs[0])
        return [g.apply1(pool.layer, y, name=pool.name)]

    return graph.rebuild(rule)
'''


def every(kind: str, replacement: str) -> str:
    """A pass that puts ``replacement`` in the place of every layer of a kind."""
    return f'''
import numpy as np
import cnnext as cx
from cnnext.graph.graph import Value, constant

def swap(graph):
    def rule(g, node, inputs):
        if type(node.layer) is cx.{kind}:
            return {replacement}
    return graph.rebuild(rule)
'''


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("CNNEXT_PLUGINS", "CNNEXT_PLUGIN_PREFER", "CNNEXT_GUARD"):
        monkeypatch.delenv(name, raising=False)
    plugins.load_pass.cache_clear()
    plugin_passes_module()._verified.clear()
    yield tmp_path
    plugins.load_pass.cache_clear()
    for name in [name for name in sys.modules if name.startswith("acme")]:
        del sys.modules[name]


def plugin_passes_module():
    return sys.modules[plugin_passes.__module__]


def install_pass(site, source=RELU_FIRST, **arguments):
    install(site, source, **{"package": "acme_passes", "entry_points": ENTRY, **arguments})


def pooled_net():
    x = cx.Input((5, 6, 3), name="image")
    y = cx.ReLU(name="relu")(cx.MaxPool2D(2, name="pool")(cx.Conv2D(4, 3, name="conv")(x)))
    return cx.Model(x, cx.Dense(3, name="head")(cx.Flatten()(y)))


def kinds(net, n=2):
    graph = optimize(prepare(net.graph, [(n, *v.shape[1:]) for v in net.graph.inputs], training=False))
    return [type(node.layer).__name__ for node in graph.nodes]


X = images(2, 5, 6, 3)


# A good pass


def test_a_pass_changes_the_plan_and_not_the_results(site):
    net = pooled_net()
    before, plain = kinds(net), net.predict(X)
    assert "ReLU" in before
    install_pass(site)
    net._runner.trim()
    assert kinds(net) == ["PooledConvolution", "Flatten", "Dense"]  # the ReLU is inside as well
    assert len(net.plan(2).steps) == 3
    close(net.predict(X), plain)


def test_it_sees_a_copy_and_only_inference(site):
    install_pass(site)
    net = branched_net()
    x = images(2, 7, 9, 3)
    expected = branched_twin(exact(net.get_weights()), x.astype(np.float64))
    close(net.predict(x), expected)
    calls = sys.modules["acme_passes"].calls
    assert len(calls) == 1 and not calls[0].training
    net.compile("sgd", "mse")
    net.fit(x, np.ones((2, 4), np.float32), verbose=0)
    assert len(calls) == 1


def test_the_order_is_that_of_the_names(site):
    order = '''
order = []

def first(graph):
    order.append("first")
    return graph

def second(graph):
    order.append("second")
    return graph
'''
    install_pass(site, order, entry_points="[cnnext.passes]\nacme/b = acme_passes:second\nacme/a = acme_passes:first\n")
    pooled_net().predict(X)
    assert sys.modules["acme_passes"].order == ["first", "second"]


def test_a_change_is_compared_once_but_for_the_batch(site, monkeypatch):
    install_pass(site)
    net, module, compared = pooled_net(), plugin_passes_module(), []
    agrees = module._agrees
    monkeypatch.setattr(module, "_agrees", lambda *a: compared.append(a) or agrees(*a))
    for n in (1, 2, 3):
        net.predict(images(n, 5, 6, 3))
    assert len(compared) == 1
    monkeypatch.setenv("CNNEXT_GUARD", "1")
    net.predict(images(4, 5, 6, 3))
    assert len(compared) == 2
    monkeypatch.delenv("CNNEXT_GUARD")
    x = cx.Input((5, 6, 3))
    cx.Model(x, cx.ReLU()(cx.MaxPool2D(3)(x))).predict(X)  # another graph
    assert len(compared) == 3


def test_a_pass_that_changes_nothing_is_not_compared(site, monkeypatch):
    install_pass(site)
    monkeypatch.setattr(plugin_passes_module(), "_agrees", None)
    branched_net().predict(images(1, 7, 9, 3))
    assert len(sys.modules["acme_passes"].calls) == 1


# Permission


def test_without_a_pass_nothing_is_imported_or_run(site):
    install(site)  # a layer, no pass
    code = ("import numpy as np, sys, cnnext as cx\n"
            "net = cx.Sequential([cx.ReLU()], input_shape=(3,)); net.predict(np.ones((1, 3), np.float32))\n"
            "assert 'entrypoints' not in sys.modules and 'acme_layers' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": f"{site}:{':'.join(sys.path)}"})
    assert plugins.graph_passes() == []


@pytest.mark.parametrize(("setting", "runs"), [("none", False), ("other", False), ("acme-passes", True), ("all", True)])
def test_the_environment_says_which_passes_may_run(site, monkeypatch, setting, runs):
    install_pass(site)
    monkeypatch.setenv("CNNEXT_PLUGINS", setting)
    assert ("ReLU" in kinds(pooled_net())) != runs


def test_a_clash_names_both_and_a_preference_decides(site, monkeypatch):
    install_pass(site)
    install_pass(site, every("ReLU", "undefined"), package="acme_rival", version="4.5",
                 entry_points="[cnnext.passes]\nacme/relu-first = acme_rival:swap\n")
    words = r"graph pass 'acme/relu-first' is provided by acme-.* and acme-.*CNNEXT_PLUGIN_PREFER"
    with pytest.raises(cx.PluginError, match=words):
        pooled_net().predict(X)
    monkeypatch.setenv("CNNEXT_PLUGIN_PREFER", "acme-passes")
    assert "ReLU" not in kinds(pooled_net())


# Faulty passes

FAULTS = {
    "cannot be imported": ("import nonsense", "cannot be imported: ModuleNotFoundError"),
    "is no function": ("swap = 3", "must name a function. Received int"),
    "raises": ("def swap(graph):\n    return graph.nonsense", "raised AttributeError"),
    "returns nothing": ("def swap(graph):\n    graph.nodes.pop()", "`result` must be a graph. Received result='NoneType'"),
    "another function": (every("ReLU", "g.apply(cx.Tanh(), *inputs)"),
                         r"changes what the graph computes: output '\w+' differs by .*"
                         r"replaced relu \(ReLU\) by tanh\w* \(Tanh\)"),
    "a bias that is 0 now is lost": (
        every("Dense", "g.apply(cx.Dense(3, use_bias=False), *inputs, weights={'weights': node.weights['weights']})"),
        "changes what the graph computes"),
    "weights are copied": (
        every("Conv2D", "g.apply(node.layer, *inputs, weights={k: constant(v.parameter.data.copy()) "
                        "for k, v in node.weights.items()})"), "changes what the graph computes"),
    "not finite": (every("ReLU", "g.apply(cx.Multiply(), *inputs, constant(np.full(4, np.inf, np.float32)))"),
                   "differs by inf"),
    "loses an output": ("def swap(graph):\n    graph.outputs.clear()\n    return graph", "must have the inputs and outputs"),
    "another shape": (every("Dense", "g.apply(cx.Dense(2, use_bias=False), *inputs, weights={'weights': "
                                     "constant(np.zeros((8, 2), np.float32))})"), "must have the inputs and outputs"),
    "an input more": ("import cnnext as cx\ndef swap(graph):\n    graph.inputs.append(cx.Input((2,)))\n    return graph",
                      "must have the inputs and outputs"),
    "outputs that are no values": ("def swap(graph):\n    graph.outputs = [3]\n    return graph", "cannot be read"),
    "a layer that cannot be lowered": (
        every("ReLU", "g.apply(type('Odd', (cx.Layer,), {'output_shape': lambda self, s: s})(), *inputs)"), "cannot run"),
    "a source from nowhere": (every("ReLU", "g.apply(node.layer, Value((2, 1, 2, 4), name='stray'))"),
                              r"must read its inputs, parameters and constants alone. Received result=\['stray'\]"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_pass_is_named_and_can_be_left_out(site, monkeypatch, fault):
    source, words = FAULTS[fault]
    net = pooled_net()
    plain = net.predict(X)
    install_pass(site, source)
    install(site, NUMPY_LAYER)
    net._runner.trim()
    for _ in range(2):  # and it is no better the second time
        with pytest.raises(cx.PluginError, match=words) as error:
            net.predict(X)
        assert error.match(OWNER)
    assert "CNNEXT_PLUGINS=" in str(error.value) or "force-reinstall" in str(error.value)
    setting = plugins.without("acme-passes").partition("CNNEXT_PLUGINS=")[2]
    assert "acme-layers" in setting.split(",")
    monkeypatch.setenv("CNNEXT_PLUGINS", setting)
    np.testing.assert_array_equal(net.predict(X), plain)


def test_a_layer_that_a_pass_puts_in_is_named_when_it_fails_later(site):
    install_pass(site, """
import cnnext as cx

class Fragile(cx.ReLU):
    def forward(self, ctx, x):
        return x.clip(0) if len(x) == 2 else x.nonsense

    as_epilogue, lower = cx.Layer.as_epilogue, cx.Layer.lower

def swap(graph):
    rule = lambda g, node, inputs: g.apply(Fragile(), *inputs) if type(node.layer) is cx.ReLU else None
    return graph.rebuild(rule)
""")
    net = pooled_net()
    net.predict(X)
    with pytest.raises(cx.PluginError, match=r"its forward raised AttributeError.*cnnext plugins doctor") as error:
        net.predict(images(3, 5, 6, 3))
    assert error.match(OWNER)


def test_the_line_to_type_without_other_plugins(site, monkeypatch):
    install_pass(site, "def swap(graph):\n    return 3")
    monkeypatch.setenv("CNNEXT_PLUGINS", "acme-passes")
    with pytest.raises(cx.PluginError, match=r"Type: CNNEXT_PLUGINS=none$"):
        pooled_net().predict(X)


def test_a_graph_that_does_not_run_on_random_inputs_stays_as_it_is(site):
    install_pass(site, every("ReLU", "g.apply(cx.Tanh(), *inputs)"))

    class Picky(cx.Layer):
        def output_shape(self, *shapes):
            return shapes[0]

        def forward(self, ctx, x):
            if x.min() < 0:
                raise ValueError("negative")
            return x

    net = cx.Sequential([Picky(), cx.ReLU()], input_shape=(3,))
    x = np.abs(images(2, 3))
    with pytest.warns(UserWarning, match="acme/relu-first' is left out: the graph does not run on random inputs.*negative"):
        close(net.predict(x), x)


@pytest.mark.parametrize(("entry_points", "words"), [
    ("[cnnext.passes]\nrelu-first = acme_passes:swap\n", "the name must read vendor/pass-name"),
    ("[cnnext.passes]\ncnnext/relu-first = acme_passes:swap\n", "the vendor cnnext is that"),
    ("[cnnext.passes]\nacme/relu-first = acme_passes\n", "must read module:function"),
])
def test_a_wrong_entry_point_is_no_pass_and_shown_by_the_doctor(site, capsys, entry_points, words):
    install_pass(site, entry_points=entry_points)
    assert "ReLU" in kinds(pooled_net())
    assert main(["plugins", "doctor"]) == 1
    assert words in capsys.readouterr().out


def test_passes_are_listed_and_examined(site, capsys):
    install_pass(site)
    assert main(["plugins", "list"]) == 0
    assert "acme/relu-first  acme-passes 1.2.3  acme_passes:swap\n" in capsys.readouterr().out
    main(["plugins", "doctor"])
    assert "fine   acme-passes 1.2.3, entry point acme/relu-first" in capsys.readouterr().out
    install_pass(site, "import nonsense", package="acme_broken",
                 entry_points="[cnnext.passes]\nacme/broken = acme_broken:run\n")
    assert main(["plugins", "doctor"]) == 1
    assert "graph pass 'acme/broken' cannot be imported" in capsys.readouterr().out

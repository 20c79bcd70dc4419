"""The passes: each leaves the results as they were, and does what it is for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnext as cx
from cnnext.graph.graph import Epilogue, Graph, constant
from cnnext.graph.passes import expand, fold_affine, fuse_epilogues, optimize, prepare, sink_transposes
from cnnext.graph.plan import Plan
from cnnext.isa import default_level
from cnnext.layers.activation import Affine
from cnnext.layers.layer import Layer, ParameterSpec
from cnnext.testing import run_graph
from tests.helpers import branched_net, close, images


class ScaleShift(Layer):
    """dst = src * scale + shift per channel, as normalization in inference is."""

    def parameters(self, *shapes):
        return {"scale": ParameterSpec((shapes[0][-1],), "glorot_normal"),
                "shift": ParameterSpec((shapes[0][-1],), "glorot_normal")}

    def output_shape(self, *shapes):
        return shapes[0]

    def compose(self, g, x, weights):
        product = g.apply1(cx.Multiply(name=f"{self.name}/scale"), x, weights["scale"])
        return g.apply1(cx.Add(name=f"{self.name}/shift"), product, weights["shift"])


class NativeScaleShift(ScaleShift):
    """The same, which says that it is affine instead of what it is made of."""

    def compose(self, g, x, weights):
        return None

    def forward(self, ctx, x):
        return x * ctx.weights["scale"] + ctx.weights["shift"]

    def as_affine(self, g, node):
        return node.weights["scale"], node.weights["shift"]


def prepared(net, n=2):
    return prepare(net.graph, [(n, *v.shape[1:]) for v in net.graph.inputs], training=False)


def feeds_of(graph):
    return [images(*v.shape, seed=i) for i, v in enumerate(graph.inputs)]


def kinds(graph):
    return [type(node.layer).__name__ for node in graph.nodes]


AXES = [(0, 1, 2, 3), (0, 3, 1, 2), (0, 2, 3, 1), (0, 2, 1, 3)]


def grown(values, choice, which):
    """One more value, from one of those there are."""
    value = values[which % len(values)]
    alike = [v for v in values if v.shape == value.shape]
    makers = [
        lambda: cx.Conv2D(value.shape[-1], 3, padding="same", activation=[None, "relu", "tanh"][which % 3])(value),
        lambda: cx.Conv2D(value.shape[-1], 1, use_bias=False)(value),
        lambda: cx.ReLU()(value),
        lambda: cx.Clip(-0.5, 0.5)(value),
        lambda: cx.Sigmoid()(value),
        lambda: cx.Add()([value, alike[which % len(alike)]]),
        lambda: cx.Add()([alike[0], value, alike[-1]]),
        lambda: cx.Permute(AXES[which % 4])(value),
        lambda: NativeScaleShift()(value),
        lambda: ScaleShift()(value),
        lambda: cx.Dense(4, activation="relu6")(value),
    ]
    return makers[choice]()


def random_net(choices):
    """A net of everything that the passes look for, of one output or two."""
    x = cx.Input((6, 5, 4), name="x")
    values = [x]
    for choice, which in choices:
        values.append(grown(values, choice, which))
    middle = values[len(values) // 2]
    return cx.Model(x, values[-1:] if choices[0][1] % 2 else [values[-1], middle])


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 11)), min_size=1, max_size=10))
def test_each_pass_leaves_the_results_as_they_were(choices):
    net = random_net(choices)
    for parameter in net.parameters:
        if parameter.data.ndim == 1:
            parameter.assign(images(*parameter.data.shape))
    feeds = feeds_of(prepared(net))
    expected = run_graph(prepared(net), feeds)
    for run in (sink_transposes, fold_affine, fuse_epilogues, optimize):
        for actual, wanted in zip(run_graph(run(prepared(net)), feeds), expected, strict=True):
            close(actual, wanted, 3e-6)


def test_passes_do_not_touch_the_users_graph():
    net = branched_net()
    before = [(node, node.epilogue, list(node.inputs), list(node.outputs)) for node in net.graph.nodes]
    net.predict(images(2, 7, 9, 3))
    assert before == [(node, node.epilogue, list(node.inputs), list(node.outputs)) for node in net.graph.nodes]


# Epilogues


def test_a_convolution_absorbs_bias_residual_and_activation():
    x = cx.Input((6, 6, 4), name="x")
    net = cx.Model(x, cx.ReLU()(cx.Add()([cx.Conv2D(4, 3, padding="same", name="c")(x), x])))
    graph = optimize(prepared(net))
    assert kinds(graph) == ["Conv2D"]
    epilogue = graph.nodes[0].epilogue
    assert epilogue.add is graph.inputs[0] and (epilogue.low, epilogue.high) == (0.0, float("inf"))
    assert graph.outputs == graph.nodes[0].outputs
    plan = Plan(graph, default_level())
    assert [s.kernel for s in plan.steps] == ["conv_direct"]


@pytest.mark.parametrize(("layers", "expected"), [
    (lambda: [cx.ReLU(), cx.Clip(-1, 4), cx.Tanh()], Epilogue(None, 0.0, 4.0, ("tanh", ()))),
    (lambda: [cx.Clip(-1, 1), cx.Clip(2, 3)], Epilogue(None, 2.0, 2.0)),
    (lambda: [cx.Clip(2, 3), cx.Clip(-1, 1)], Epilogue(None, 1.0, 1.0)),
    (lambda: [cx.ReLU6()], Epilogue(None, 0.0, 6.0)),
])
def test_chains_of_functions_become_one_epilogue(layers, expected):
    graph = optimize(prepared(cx.Sequential([cx.Conv2D(4, 1), *layers()], input_shape=(3, 3, 2))))
    assert kinds(graph) == ["Conv2D"]
    epilogue = graph.nodes[0].epilogue
    assert (epilogue.low, epilogue.high) == (expected.low, expected.high)
    assert (epilogue.post and epilogue.post[0]) == (expected.post and expected.post[0])


@pytest.mark.parametrize(("make", "expected"), [
    (lambda x, c: cx.Tanh()(cx.Tanh()(c)), ["Conv2D", "Tanh"]),  # one function beyond the clip
    (lambda x, c: cx.ReLU()(cx.Tanh()(c)), ["Conv2D", "ReLU"]),  # the clip comes first
    (lambda x, c: cx.Add()([cx.ReLU()(c), x]), ["Conv2D", "Add"]),  # so does the addition
    (lambda x, c: cx.Add()([c, c]), ["Conv2D", "Add"]),
    (lambda x, c: cx.Add()([cx.ReLU()(c), c]), ["Conv2D", "ReLU", "Add"]),  # the result is read twice
    (lambda x, c: cx.Add()([c, x, x]), ["Conv2D", "Add"]),
])
def test_what_the_order_of_an_epilogue_does_not_allow_stays(make, expected):
    x = cx.Input((5, 5, 4), name="x")
    net = cx.Model(x, make(x, cx.Conv2D(4, 3, padding="same")(x)))
    assert kinds(optimize(prepared(net))) == expected


def test_an_output_is_not_absorbed():
    x = cx.Input((5, 5, 4), name="x")
    c = cx.Conv2D(4, 3)(x)
    assert kinds(optimize(prepared(cx.Model(x, [cx.ReLU()(c), c])))) == ["Conv2D", "ReLU"]


def test_of_two_convolutions_that_join_the_later_adds():
    x = cx.Input((5, 5, 4), name="x")
    a, b = cx.Conv2D(4, 1, name="a")(x), cx.Conv2D(4, 1, name="b")(x)
    graph = optimize(prepared(cx.Model(x, cx.ReLU()(cx.Add()([b, a])))))
    assert kinds(graph) == ["Conv2D", "Conv2D"]
    first, second = graph.nodes
    assert first.epilogue is None and second.epilogue.add is first.output


def test_a_broadcast_addition_is_not_absorbed():
    x = cx.Input((5, 5, 4), name="x")
    row = constant(images(5, 4), "row")
    net = cx.Model(x, cx.Add()([cx.Conv2D(4, 1)(x), row]))
    assert kinds(optimize(prepared(net))) == ["Conv2D", "Add"]
    x0 = images(2, 5, 5, 4)
    close(net.predict(x0), run_graph(prepared(net), [x0])[0], 1e-6)


@pytest.mark.parametrize("join", [cx.Add, cx.Multiply])
@pytest.mark.parametrize("producer", [cx.Conv2D(4, 3), cx.Conv2DTranspose(4, 2, strides=2), cx.DepthwiseConv2D(3)])
def test_constants_for_each_channel_fold_into_the_weights(join, producer):
    x = cx.Input((5, 5, 4), name="x")
    term = constant(images(4), "term")
    net = cx.Model(x, cx.ReLU()(join()([term, producer(x)])))
    assert not {"binary", "unary"} & {step.kernel for step in net.plan(2).steps}
    x0 = images(2, 5, 5, 4)
    close(net.predict(x0), run_graph(prepared(net), [x0])[0], 1e-6)


# Written-out activations


@pytest.mark.parametrize("make, expected", [
    (lambda x: cx.Multiply()([x, cx.Sigmoid()(x)]), "SiLU"),
    (lambda x: cx.Multiply()([cx.HardSigmoid()(x), x]), "HardSwish"),
    (lambda x: Affine(1 / 6)(cx.Clip(0, 6)(Affine(1, 3)(x))), "HardSigmoid"),
    (lambda x: cx.Multiply()([x, Affine(1 / 6)(cx.Clip(0, 6)(Affine(1, 3)(x)))]), "HardSwish"),
    (lambda x: Affine(1 / 6)(cx.Multiply()([x, cx.Clip(0, 6)(Affine(1, 3)(x))])), "HardSwish"),
    (lambda x: Affine(2, 1)(Affine(3, -1)(x)), "Affine"),
])
def test_written_out_activations_are_recognised(make, expected):
    x = cx.Input((5, 4), name="x")
    net = cx.Model(x, make(cx.Tanh()(x)))
    assert kinds(optimize(prepared(net)))[-1] == expected
    assert len(optimize(prepared(net)).nodes) == 2
    x0 = 4 * images(2, 5, 4)
    close(net.predict(x0), run_graph(prepared(net), [x0])[0], 1e-6)


@pytest.mark.parametrize("make", [
    lambda x, y: cx.Multiply()([x, cx.Sigmoid()(y)]),
    lambda x, y: cx.Multiply()([x, Affine(1 / 6)(cx.Clip(0, 5)(Affine(1, 3)(x)))]),
    lambda x, y: Affine(1 / 5)(cx.Clip(0, 6)(Affine(1, 3)(x))),
])
def test_what_only_resembles_an_activation_stays(make):
    x, y = cx.Input((5, 4), name="x"), cx.Input((5, 4), name="y")
    net = cx.Model([x, y], make(x, y))
    assert not {"SiLU", "HardSwish", "HardSigmoid"} & set(kinds(optimize(prepared(net))))
    data = [4 * images(2, 5, 4), images(2, 5, 4)]
    close(net.predict(data), run_graph(prepared(net), data)[0], 1e-6)


# Concatenations


def test_a_concatenation_that_repeats_an_earlier_one_copies_nothing():
    x = cx.Input((6, 6, 3), name="x")
    features = [cx.Conv2D(4, 1)(x)]
    for _ in range(4):
        joined = cx.Concat()(features) if len(features) > 1 else features[0]
        features.append(cx.Conv2D(4, 3, padding="same", activation="relu")(joined))
    net = cx.Model(x, cx.GlobalAvgPool2D()(cx.Concat()(features)))
    assert "copy" not in [step.kernel for step in net.plan(2).steps]
    x0 = images(2, 6, 6, 3)
    close(net.predict(x0), run_graph(prepared(net), [x0])[0], 1e-5)


# Permutations


def test_channels_first_layers_leave_two_permutations():
    layers = [cx.Conv2D(4, 3, padding="same", data_format="channels_first", activation="relu") for _ in range(3)]
    graph = prepared(cx.Sequential(layers, input_shape=(3, 6, 6)))
    assert kinds(graph).count("Permute") == 6
    assert kinds(optimize(graph)) == ["Permute", "Conv2D", "Conv2D", "Conv2D", "Permute"]


def test_permutations_in_a_row_become_one():
    axes = [(0, 3, 1, 2), (0, 1, 3, 2), (0, 2, 1, 3)]
    graph = prepared(cx.Sequential([cx.Permute(a) for a in axes], input_shape=(3, 4, 5)))
    (node,) = optimize(graph).nodes
    x = images(2, 3, 4, 5)
    step_by_step = x.transpose(axes[0]).transpose(axes[1]).transpose(axes[2])
    np.testing.assert_array_equal(x.transpose(node.layer.axes), step_by_step)


def test_a_permutation_and_its_inverse_vanish():
    net = cx.Sequential([cx.Permute((0, 3, 1, 2)), cx.Tanh(), cx.Permute((0, 2, 3, 1))], input_shape=(3, 4, 5))
    assert kinds(optimize(prepared(net))) == ["Tanh"]


# Affine layers


def test_an_affine_layer_is_folded_into_its_producer():
    net = cx.Sequential([cx.Conv2D(6, 3, name="c"), NativeScaleShift(name="norm"), cx.ReLU()], input_shape=(6, 6, 4))
    graph = optimize(prepared(net))
    assert [n.name for n in graph.nodes if n.name in ("c", "norm")] == ["c"]
    plan = Plan(graph, default_level())
    assert [s.kernel for s in plan.steps] == ["conv_direct"]  # scaling the weights is done once
    x = images(2, 6, 6, 4)
    scale, shift = net.get_weights()[2:]
    c, bias = net.get_weights()[:2]
    y = cx.reference.conv2d(x.astype(np.float64), c.astype(np.float64), bias.astype(np.float64))
    close(net.predict(x), np.maximum(y * scale + shift, 0))
    net.set_weights([c, bias, scale * 3, shift])
    close(net.predict(x), np.maximum(y * scale * 3 + shift, 0))


@pytest.mark.parametrize("layer", [lambda: cx.Conv2D(6, 3, use_bias=False), lambda: cx.Dense(6, use_bias=False),
                                   lambda: cx.Dense(6), lambda: cx.Conv2D(6, 3, groups=2)])
def test_producers_that_take_an_affine_layer(layer):
    net = cx.Sequential([layer(), NativeScaleShift()], input_shape=(6, 6, 4))
    net.set_weights([images(*w.shape, seed=i) for i, w in enumerate(net.get_weights())])
    graph = prepared(net)
    folded = fold_affine(prepared(net))
    assert "NativeScaleShift" not in kinds(folded)
    feeds = feeds_of(graph)
    close(run_graph(folded, feeds)[0], run_graph(graph, feeds)[0])


def test_an_affine_layer_stays_where_its_source_is_read_elsewhere_or_in_training():
    x = cx.Input((6, 6, 4))
    c = cx.Conv2D(4, 3)(x)
    read_twice = cx.Model(x, cx.Add()([NativeScaleShift()(c), c]))
    assert "NativeScaleShift" in kinds(optimize(prepared(read_twice)))
    an_output = cx.Model(x, [NativeScaleShift()(c), c])
    assert "NativeScaleShift" in kinds(optimize(prepared(an_output)))
    activated = cx.Model(x, NativeScaleShift()(cx.Conv2D(4, 3, activation="relu")(x)))
    assert "NativeScaleShift" in kinds(optimize(prepared(activated)))
    fused = fuse_epilogues(prepared(activated))
    assert kinds(fold_affine(fused)) == kinds(fused) == ["Conv2D", "NativeScaleShift"]
    chain = cx.Model(x, NativeScaleShift()(cx.Conv2D(4, 3)(x)))
    graph = prepare(chain.graph, [(2, 6, 6, 4)], training=True)
    assert "NativeScaleShift" in kinds(optimize(graph))


# Expansion


class Twice(Layer):
    """A layer that is made of one that is made of others."""

    def parameters(self, *shapes):
        return ScaleShift.parameters(self, *shapes)

    def output_shape(self, *shapes):
        return shapes[0]

    def compose(self, g, x, weights):
        once = g.apply1(ScaleShift(name=f"{self.name}/first"), x, weights=weights)
        return g.apply1(ScaleShift(name=f"{self.name}/second"), once, weights=weights)


def test_composed_layers_are_written_out_to_the_end():
    net = cx.Sequential([Twice(name="t")], input_shape=(3, 3, 2))
    net.set_weights([images(*w.shape, seed=i) for i, w in enumerate(net.get_weights())])
    assert kinds(prepared(net)) == ["Multiply", "Add"] * 2
    scale, shift = net.get_weights()
    x = images(2, 3, 3, 2)
    close(net.predict(x), (x * scale + shift) * scale + shift)


def test_composed_layers_may_be_channels_first():
    layer = ScaleShift(name="s")
    layer.data_format = "channels_first"
    net = cx.Sequential([layer], input_shape=(2, 3, 4))
    net.set_weights([images(2, seed=i) for i in range(2)])
    scale, shift = (w[:, None, None] for w in net.get_weights())
    x = images(2, 2, 3, 4)
    close(net.predict(x), x * scale + shift)


def test_identities_are_dropped_in_their_mode():
    net = cx.Sequential([cx.Dropout(0.5), cx.Permute((0, 1)), cx.Dense(3)], input_shape=(4,))
    assert kinds(prepared(net)) == ["Dense"]
    assert len(prepare(net.graph, [(2, 4)], training=True).nodes) == 2


def test_expansion_leaves_the_mode_of_the_original():
    graph = branched_net().graph
    assert expand(graph, [(2, 7, 9, 3)], True).training
    assert isinstance(graph, Graph) and not graph.training

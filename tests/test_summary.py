"""The table of a network, and receptive fields against the gradient's support."""

import re
from math import ceil

import numpy as np
import pytest

import cnnext as cx
from cnnext.graph.gradient import add_gradients
from cnnext.graph.graph import Value
from cnnext.graph.passes import prepare
from cnnext.layers.layer import Layer
from cnnext.testing import run_graph


def row(text, name):
    (line,) = [x for x in text.split("\n") if x.startswith(f"{name} (")]
    return re.split(r"  +", line)


def test_summary_of_a_chain():
    net = cx.Sequential([
        cx.Conv2D(6, 5, padding="same", name="c"), cx.Conv2D(8, 3, strides=2, use_bias=False, name="d"),
        cx.Flatten(name="f"), cx.Dense(10, name="o"),
    ], input_shape=(28, 27, 1), name="net")
    text = net.summary(show=False)
    assert row(text, "c") == ["c (Conv2D)", "(None, 28, 27, 6)", "156", f"{28 * 27 * 6 * 25:,}"]
    assert row(text, "d") == ["d (Conv2D)", "(None, 13, 13, 8)", "432", f"{13 * 13 * 8 * 54:,}", "1 row unread"]
    assert row(text, "o") == ["o (Dense)", "(None, 10)", "13,530", "13,520"]
    total = 28 * 27 * 150 + 13 * 13 * 8 * 54 + 13520
    assert f"total: {156 + 432 + 13530:,} parameters (14,118 trainable), {total:,} MACs per sample" in text
    assert text.startswith("net: ") and "reads" not in text


def test_summary_prints(capsys):
    net = cx.Sequential([cx.Dense(3)], input_shape=(4,))
    assert net.summary() + "\n" == capsys.readouterr().out


def test_summary_of_a_branched_net_names_what_is_read():
    x = cx.Input((8, 8, 4), name="image")
    shared = cx.Conv2D(4, 3, padding="same", name="shared")
    a = shared(x)
    net = cx.Model(x, cx.Add(name="sum")([shared(a), a]))
    lines = net.summary(show=False).split("\n")
    assert "reads" in lines[1]
    cells = [re.split(r"  +", line) for line in lines if line.startswith("shared")]
    assert [c[2] for c in cells] == ["148", "shared"]
    assert [c[4] for c in cells] == ["image", "shared"]
    assert row("\n".join(lines), "sum")[4] == "shared, shared"
    assert "total: 148 parameters" in lines[-1]


def test_open_extents_leave_macs_open():
    net = cx.Sequential([cx.Conv2D(4, 3, strides=2, name="c")], input_shape=(None, 9, 2))
    text = net.summary(show=False)
    assert row(text, "c")[1:4] == ["(None, None, 4, 4)", "76", "?"]
    assert text.endswith("? MACs per sample")


def test_channels_first_counts_the_same():
    macs = [row(cx.Sequential([cx.Conv2D(5, 3, strides=2, data_format=f, name="c")],
                              input_shape=shape).summary(show=False), "c")[3:]
            for f, shape in (("channels_last", (12, 15, 3)), ("channels_first", (3, 12, 15)))]
    assert macs == [["4,725", "1 row unread"]] * 2


def test_composed_layers_count_the_layers_they_are_made_of():
    class Twice(Layer):
        def output_shape(self, *shapes):
            return (*shapes[0][:3], 4)

        def compose(self, g, x, weights):
            w = cx.Conv2D(4, 1, use_bias=False, name="inner")
            w.build(x.shape)
            return g.apply1(w, x, weights=w.weight_values())

    net = cx.Sequential([Twice(name="t")], input_shape=(5, 5, 3))
    assert row(net.summary(show=False), "t")[3] == str(25 * 4 * 3)


@pytest.mark.parametrize(("kernel", "strides", "dilation", "note"), [
    (1, 2, 1, ["4 rows, 4 columns unread"]), ((2, 3), (3, 2), 1, ["3 rows unread"]), (2, 1, 3, []), (3, 3, 1, []),
    (2, 2, 2, ["4 rows, 4 columns unread"]),
])
def test_unread_rows_and_columns(kernel, strides, dilation, note):
    net = cx.Sequential([cx.Conv2D(1, kernel, strides=strides, dilation=dilation, name="c")], input_shape=(9, 9, 1))
    assert row(net.summary(show=False), "c")[4:] == note


# Receptive fields


def positive(net):
    """Weights of ones, so that no contribution cancels another."""
    net.set_weights([np.ones_like(w) for w in net.get_weights()])
    return net


def support(net, layer, pixel):
    """Input rows and columns on which one output pixel of the layer depends: where its gradient is not 0."""
    graph = prepare(net.graph, [(1, *v.shape[1:]) for v in net.graph.inputs], training=False)
    value = next(n.output for n in graph.nodes if n.name == layer)
    seed = Value(value.shape, name="seed")
    graph.outputs = [add_gradients(graph, [value], graph.inputs, [seed])[graph.inputs[0]]]
    n_inputs = len(graph.inputs)
    graph.inputs.append(seed)
    graph.order()
    diff = np.zeros(value.shape, np.float32)
    diff[(0, *pixel)] = 1
    image = np.ones(graph.inputs[0].shape, np.float32)
    (gradient,) = run_graph(graph, [image] * n_inputs + [diff])
    return [np.flatnonzero(gradient[0].any(axis=axes)) for axes in ((1, 2), (0, 2))]


def check_field(net, name, pixel, exact=True):
    field = next(f for f in cx.receptive_field(net) if f.name == name)
    for axis, seen in enumerate(support(positive(net), name, pixel)):
        first = field.offset[axis] + pixel[axis] * field.stride[axis]
        assert ceil(first) <= seen[0] and seen[-1] <= ceil(first) + field.size[axis] - 1
        if exact:
            assert (first, field.size[axis]) == (seen[0], seen[-1] - seen[0] + 1)


def test_receptive_fields_are_the_support_of_the_gradient():
    net = cx.Sequential([
        cx.Conv2D(2, (3, 5), name="a"),
        cx.Conv2D(2, 3, strides=(2, 1), padding="same", name="b"),
        cx.Conv2D(2, 3, dilation=2, padding=((1, 2), (2, 0)), name="c"),
        cx.Conv2D(2, (2, 3), strides=2, name="d"),
    ], input_shape=(41, 40, 1))
    for name, pixel in (("a", (3, 4)), ("b", (5, 6)), ("c", (6, 9)), ("d", (4, 5))):
        check_field(net, name, pixel)


def test_known_fields():
    net = cx.Sequential([cx.Conv2D(1, 7, strides=2, padding="same", name="stem"),
                         cx.MaxPool2D(3, strides=2, padding="same", name="pool"), cx.Conv2D(1, 3, padding="same"),
                         cx.GlobalAvgPool2D(name="all"), cx.Dense(3, name="end")], input_shape=(224, 224, 3))
    fields = cx.receptive_field(net)
    assert [(f.size[0], f.stride[0], f.offset[0]) for f in fields] == [
        (7, 2, -2), (11, 4, -2), (19, 4, -6), (224, 0, 0), (224, 0, 0)]
    assert repr(fields).split("\n")[2].split() == "stem 7 x 7 2 x 2 -2 x -2".split()


def test_branches_join_to_the_union():
    x = cx.Input((30, 30, 1))
    a = cx.Conv2D(1, 3, padding="same", name="narrow")(x)
    b = cx.Conv2D(1, (7, 1), padding="same", name="tall")(x)
    net = cx.Model(x, cx.Conv2D(1, 3, name="after")(cx.Add(name="sum")([a, b])))
    assert [f.size for f in cx.receptive_field(net)] == [(3, 3), (7, 1), (7, 3), (9, 5)]
    check_field(net, "after", (10, 10))


@pytest.mark.parametrize(("kernel", "stride", "padding"),
                         [(2, 2, "valid"), (3, 2, "same"), (4, 2, "same"), (5, 3, "valid")])
def test_behind_a_transposed_convolution(kernel, stride, padding):
    net = cx.Sequential([cx.Conv2D(1, 3, strides=2, name="down"),
                         cx.Conv2DTranspose(1, kernel, strides=stride, padding=padding, name="up"),
                         cx.Conv2D(1, 3, name="after")], input_shape=(31, 31, 1))
    for pixel in ((9, 9), (10, 9), (11, 10)):
        check_field(net, "up", pixel, exact=False)
        check_field(net, "after", pixel, exact=False)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("size", [2, 3, (4, 5)])
def test_behind_an_enlarged_image(mode, size):
    net = cx.Sequential([cx.Conv2D(1, 3, name="before"), cx.UpSample2D(size, mode=mode, name="up"),
                         cx.Conv2D(1, 3, name="after")], input_shape=(12, 12, 1))
    for row, column in np.ndindex(6, 6):
        check_field(net, "up", (10 + row, 10 + column), exact=False)
        check_field(net, "after", (10 + row, 10 + column), exact=False)
    wanted = {"nearest": 3, "bilinear": 4}[mode]
    assert cx.receptive_field(net)[1].size == (wanted, wanted)
    same = cx.Sequential([cx.UpSample2D(1, mode=mode)], input_shape=(12, 12, 1))
    assert cx.receptive_field(same)[0].size == (1, 1) and cx.receptive_field(same)[0].offset == (0, 0)


def test_dense_on_images_sees_one_pixel():
    net = cx.Sequential([cx.Conv2D(2, 3), cx.Dense(4, name="d")], input_shape=(9, 9, 1))
    assert cx.receptive_field(net)[-1].size == (3, 3)


def test_open_extents_and_sequences():
    net = cx.Sequential([cx.Conv2D(1, 3), cx.GlobalMaxPool2D()], input_shape=(None, 20, 1))
    assert [f.size for f in cx.receptive_field(net)] == [(3, 3), (None, 20)]
    assert "? x 20" in repr(cx.receptive_field(net))
    net = cx.Sequential([cx.Conv1D(1, 3), cx.Conv1D(1, 5, strides=2)], input_shape=(20, 1))
    assert [f.size for f in cx.receptive_field(net)] == [(1, 3), (1, 7)]


def test_summary_of_training():
    net = cx.Sequential([*(cx.Conv2D(8, 3, padding="same", activation="silu", name=f"c{i}") for i in range(8)),
                         cx.Flatten(), cx.Dense(3, name="o")], input_shape=(16, 16, 8))
    with pytest.raises(RuntimeError, match=r"call compile\(optimizer=..., loss=...\) first"):
        net.summary(show=False, training=True)
    net.layers[0].weights["bias"].trainable = False
    net.compile("adam", cx.SparseCategoricalCrossentropy(from_logits=True), checkpoint_activations=True)
    text = net.summary(show=False, training=True, batch_size=64)
    assert text.startswith(net.summary(show=False) + "\n\ntraining, batch 64 ")
    table = {cells[0]: [float(c) for c in cells[1:]] for line in text.split("\n\n")[1].split("\n")[2:-1]
             if (cells := re.split(r"  +", line))}
    assert list(table) == ["parameters", "state of Adam", "gradients", "activations kept", "arena", "total"]
    mb = net.count_params() * 4 / 1e6
    one = 64 * 16 * 16 * 8 * 4 / 1e6    # an activation
    assert table["parameters"] == pytest.approx([mb, mb], abs=0.06)
    assert table["state of Adam"] == pytest.approx([2 * mb, 2 * mb], abs=0.06)
    assert table["gradients"] == pytest.approx([mb, mb], abs=0.06)
    assert table["activations kept"][0] == pytest.approx(16 * one, rel=0.05)     # before and behind each function
    assert table["activations kept"][1] < 0.6 * table["activations kept"][0]
    assert table["arena"][1] < 0.7 * table["arena"][0]
    kept = [table[name] for name in ("parameters", "state of Adam", "arena")]
    assert table["total"] == pytest.approx([sum(column) for column in zip(*kept, strict=True)], abs=0.2)
    assert "with checkpoint_activations (in use)" in text
    net.train_on_batch(np.zeros((64, 16, 16, 8), np.float32), np.zeros(64, np.int64))
    (built,) = net._trainer._plans.values()
    assert table["arena"][1] == pytest.approx(built.plan.arena_bytes / 1e6, abs=0.06)

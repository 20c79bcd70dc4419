"""``Model`` and ``Sequential``: building, weights, prediction, pickling, shared layers."""

import pickle

import numpy as np
import pytest

import cnnext as cx
from cnnext.graph.gradient import add_gradients
from cnnext.graph.graph import Value
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.runner import MAX_PLANS
from cnnext.testing import run_graph
from tests.helpers import branched_net, branched_twin, close, exact, images, two_ended_net, two_ended_twin


def test_predict_is_the_twin():
    net = branched_net()
    x = images(5, 7, 9, 3)
    close(net.predict(x), branched_twin(exact(net.get_weights()), x.astype(np.float64)))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 5, 64])
def test_predict_in_batches_of_any_size(batch_size):
    net = branched_net()
    x = images(5, 7, 9, 3)
    np.testing.assert_array_equal(net.predict(x, batch_size=batch_size), net.predict(x, batch_size=5))


def test_several_inputs_and_outputs():
    net = two_ended_net()
    left, right = images(4, 5, 6, 2), images(4, 5, 6, 2, seed=2)
    expected = two_ended_twin(exact(net.get_weights()), *exact([left, right]))
    for actual, wanted in zip(net.predict([left, right], batch_size=3), expected, strict=True):
        close(actual, wanted)
    with pytest.raises(ValueError, match=r"`x` must be 2 array"):
        net.predict(left)
    with pytest.raises(ValueError, match=r"`x` must hold as many samples for each input"):
        net.predict([left, right[:3]], batch_size=3)
    with pytest.raises(ValueError, match=r"predict: `x` must hold at least one example. .*shape \(0, 5, 6, 2\)"):
        net.predict([left[:0], right[:0]])


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8, np.int64, bool])
def test_predict_converts_numbers(dtype):
    net = branched_net()
    x = (np.abs(images(2, 7, 9, 3)) * 2).astype(dtype)
    np.testing.assert_array_equal(net.predict(x), net.predict(x.astype(np.float32)))


def test_predict_takes_any_memory_layout():
    net = branched_net()
    x = images(2, 7, 9, 3)
    for view in (np.asfortranarray(x), np.repeat(x, 2, axis=2)[:, :, ::2], x[::-1][::-1]):
        np.testing.assert_array_equal(net.predict(view), net.predict(x))


def test_shapes_and_counts():
    net = branched_net()
    assert net.input_shape == (None, 7, 9, 3) and net.output_shape == (None, 4)
    assert [w.shape for w in net.get_weights()] == [(3, 3, 3, 5), (5,), (1, 1, 3, 5), (5,), (315, 4), (4,)]
    assert net.count_params() == sum(w.size for w in net.get_weights())


# Weights


def test_weights_that_are_set_are_used_at_once():
    net = branched_net()
    x = images(2, 7, 9, 3)
    net.predict(x)  # packs the weights of this plan
    new = [images(*w.shape, seed=i) for i, w in enumerate(net.get_weights())]
    net.set_weights([w.astype(np.float64) for w in new])
    for got, given in zip(net.get_weights(), new, strict=True):
        np.testing.assert_array_equal(got, given)
    close(net.predict(x), branched_twin(exact(new), x.astype(np.float64)))


def test_weights_got_are_copies():
    net = branched_net()
    net.get_weights()[0][...] = 7
    assert not (net.get_weights()[0] == 7).any()


@pytest.mark.parametrize(("change", "error", "words"), [
    (lambda w: w[:-1], ValueError, "`weights` must be 6 arrays. Received weights=5"),
    (lambda w: [w[0][:1], *w[1:]], ValueError, r"`wide/weights` must have shape (3, 3, 3, 5)"),
    (lambda w: [*w[:-1], np.array(["a"] * 4)], TypeError, "`head/bias` must hold numbers"),
    (lambda w: [*w[:-1], np.array([None] * 4)], TypeError, "`head/bias` must hold numbers"),
])
def test_wrong_weights_change_nothing(change, error, words):
    net = branched_net()
    before = net.get_weights()
    with pytest.raises(error) as caught:
        net.set_weights(change([w + 1 for w in before]))
    assert words in str(caught.value)
    for got, kept in zip(net.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, kept)


def test_seeded_weights_are_reproducible():
    def weights(seed):
        cx.set_random_seed(seed)
        return branched_net().get_weights()

    for one, other in zip(weights(3), weights(3), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(weights(3)[0], weights(4)[0])


# Shared layers


def test_a_layer_used_twice_gets_the_sum_of_its_gradients():
    net = two_ended_net()
    feeds = [images(2, 5, 6, 2), images(2, 5, 6, 2, seed=2), images(2, 3, 4, 3, seed=3), images(2, 3, 4, 3, seed=4)]
    graph = prepare(net.graph, [(2, 5, 6, 2)] * 2, training=True)
    seeds = [Value(v.shape, name=f"diff_{i}") for i, v in enumerate(graph.outputs)]
    weights = {v.parameter: v for node in graph.nodes for v in node.weights.values()}
    diffs = add_gradients(graph, graph.outputs, weights.values(), seeds)
    graph.inputs += seeds
    graph.outputs = list(diffs.values())
    graph.order()
    got = dict(zip((v.name for v in diffs), run_graph(optimize(graph), feeds), strict=True))

    left, right, d_difference, d_product = exact(feeds)
    w, bias = exact(net.get_weights())
    a, b = (cx.reference.conv2d(x, w, bias) for x in (left, right))
    d_a, d_b = d_difference + d_product * b, -d_difference + d_product * a
    backward = cx.reference.conv2d_backward_weights
    close(got["shared/weights"], backward(left, d_a, w.shape) + backward(right, d_b, w.shape))
    close(got["shared/bias"], d_a.sum((0, 1, 2)) + d_b.sum((0, 1, 2)))


def test_a_shared_layer_counts_once():
    net = two_ended_net()
    assert [layer.name for layer in net.layers] == ["shared", "difference", "product"]
    assert net.count_params() == 3 * 3 * 2 * 3 + 3


def test_a_shared_layer_must_fit_all_its_sources():
    shared = cx.Conv2D(3, 3, name="shared")
    shared(cx.Input((5, 5, 2)))
    with pytest.raises(ValueError, match=r"conv2d 'shared': `weights` must have shape \(3, 3, 4, 3\)"):
        shared(cx.Input((5, 5, 4)))


# Building


def test_two_layers_of_one_name_are_refused():
    x = cx.Input((4,))
    with pytest.raises(ValueError, match=r"`name` must be different for each layer\. Received name='d'"):
        cx.Model(x, cx.Dense(3, name="d")(cx.Dense(3, name="d")(x)))


def test_default_names_differ():
    net = cx.Sequential([cx.Dense(3), cx.Dense(3), cx.Dense(3)], input_shape=(3,))
    assert len({layer.name for layer in net.layers}) == 3


def test_a_missing_input_is_named():
    x, y = cx.Input((4,), name="x"), cx.Input((4,), name="y")
    with pytest.raises(ValueError, match=r"'y' is missing"):
        cx.Model(x, cx.Add()([x, y]))


def test_the_same_input_twice_is_refused():
    x = cx.Input((4,), name="x")
    with pytest.raises(ValueError, match=r"`inputs` must differ"):
        cx.Model([x, x], cx.Dense(3)(x))


@pytest.mark.parametrize(("layers", "arguments", "error", "words"), [
    ([cx.Dense(3)], {}, ValueError, "`input_shape` must be given"),
    ([], {"input_shape": (3,)}, ValueError, "`layers` must be one layer or more"),
    ([cx.Dense(3), "relu"], {"input_shape": (3,)}, TypeError, "`layers[1]` must be a layer"),
    ([cx.Dense(3)], {"input_shape": (0,)}, ValueError, "`shape` must be at least 1"),
    ([cx.Dense(3)], {"input_shape": (3,), "num_threads": 0}, ValueError, "`num_threads` must be"),
])
def test_bad_chains(layers, arguments, error, words):
    with pytest.raises(error) as caught:
        cx.Sequential(layers, **arguments)
    assert words in str(caught.value)


def test_a_sequence_may_begin_with_an_input():
    net = cx.Sequential([cx.Input((3, 5), name="words"), cx.Dense(2)])
    assert net.predict(images(2, 3, 5)).shape == (2, 3, 2)


def test_an_output_may_be_an_input_or_stand_twice():
    x = cx.Input((4,), name="x")
    y = cx.Dense(3, name="d")(x)
    array = images(2, 4)
    first, second, third = cx.Model(x, [y, x, y]).predict(array)
    np.testing.assert_array_equal(first, third)
    np.testing.assert_array_equal(second, array)


def test_layers_that_nothing_needs_are_dropped():
    x = cx.Input((4,))
    y = cx.Dense(3, name="used")(x)
    cx.Dense(9, name="unused")(y)
    assert [layer.name for layer in cx.Model(x, y).layers] == ["used"]


def test_training_needs_compile():
    with pytest.raises(RuntimeError, match="call compile"):
        branched_net().fit(images(2, 7, 9, 3), np.zeros(2, np.int64))


# Plans


def test_plans_are_kept_and_bounded():
    net = branched_net()
    first = net.plan(1)
    assert net.plan(1) is first
    for batch_size in range(2, MAX_PLANS + 1):
        net.plan(batch_size)
    assert net.plan(1) is first
    net.plan(MAX_PLANS + 1)
    assert net.plan(1) is first  # asked for more recently than 2
    assert len(net._runner._stages) == MAX_PLANS
    net._runner.trim()
    assert net.plan(1) is not first


def test_open_extents_take_images_of_any_size():
    net = cx.Sequential([cx.Conv2D(3, 3, name="c")], input_shape=(None, None, 2))
    weights = exact(net.get_weights())
    for shape in ((2, 5, 7, 2), (1, 9, 3, 2)):
        x = images(*shape)
        close(net.predict(x), cx.reference.conv2d(x.astype(np.float64), *weights))
    with pytest.raises(ValueError, match=r"conv2d 'c': `kernel_size` must fit on the padded source"):
        net.predict(images(1, 2, 7, 2))


# Pickling


def test_pickling_keeps_bits_and_class():
    net = cx.Sequential([cx.Conv2D(3, 3, activation="relu"), cx.Flatten(), cx.Dense(2)], input_shape=(5, 5, 1),
                        num_threads=1)
    copy = pickle.loads(pickle.dumps(net))
    x = images(2, 5, 5, 1)
    np.testing.assert_array_equal(copy.predict(x), net.predict(x))
    assert type(copy) is cx.Sequential and copy.num_threads == 1 and copy.name == net.name
    copy.set_weights([w * 0 for w in copy.get_weights()])
    assert net.predict(x).any()


def test_models_of_branches_and_shared_layers_pickle():
    net = two_ended_net()
    left, right = images(1, 5, 6, 2), images(1, 5, 6, 2, seed=2)
    copy = pickle.loads(pickle.dumps(net))
    assert copy.count_params() == net.count_params()
    for one, other in zip(copy.predict([left, right]), net.predict([left, right]), strict=True):
        np.testing.assert_array_equal(one, other)

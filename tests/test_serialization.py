"""Model files at the level of the graph: round trips, and documents that are wrong, hostile or mutated."""

import contextlib
import copy
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from math import prod

import numpy as np
import pytest

import cnnext as cx
from cnnext import modelfile
from cnnext.serialization import describe, load, to_bytes
from tests.helpers import branched_net, images, two_ended_net


def document_of(net):
    document, tensors = describe(net)
    return json.loads(json.dumps(document)), tensors


def load_document(document, tensors):
    return load(modelfile.to_bytes(tensors, document))


def channels_first_net():
    x = cx.Input((3, 8, 8), name="x")
    y = cx.Conv2D(4, 3, strides=(2, 1), padding=((0, 1), (2, 0)), groups=1, data_format="channels_first",
                  activation=cx.LeakyReLU(0.3), name="c")(x)
    return cx.Model(x, cx.Permute((0, 2, 3, 1), name="p")(y))


def results_of(net, feeds):
    """The list of outputs."""
    results = net.predict(feeds)
    return results if isinstance(results, list) else [results]


@pytest.mark.parametrize("make", [branched_net, two_ended_net, channels_first_net])
def test_round_trips_keep_bits_names_and_attributes(make, tmp_path):
    net = make()
    net.save(tmp_path / "net.safetensors")
    copied = cx.load(tmp_path / "net.safetensors", num_threads=1)
    feeds = [images(2, *v.shape[1:], seed=i) for i, v in enumerate(net.graph.inputs)]
    for one, other in zip(results_of(net, feeds), results_of(copied, feeds), strict=True):
        np.testing.assert_array_equal(one, other)
    assert copied.name == net.name and copied.num_threads == 1
    assert describe(copied)[0] == describe(net)[0]
    assert [repr(layer) for layer in copied.layers] == [repr(layer) for layer in net.layers]
    assert to_bytes(copied) == to_bytes(net)


def test_open_extents_and_infinite_attributes():
    net = cx.Sequential([cx.Conv2D(2, 3, use_bias=False), cx.Clip(-float("inf"), 2.0)], input_shape=(None, None, 2))
    copied = load(to_bytes(net))
    assert copied.input_shape == (None, None, None, 2) and copied.layers[1].minimum == -float("inf")
    x = images(1, 5, 4, 2)
    np.testing.assert_array_equal(copied.predict(x), net.predict(x))


def test_loading_draws_no_random_numbers():
    payload = to_bytes(branched_net())
    cx.set_random_seed(5)
    expected = cx.Dense(3)
    expected.build((None, 4))
    cx.set_random_seed(5)
    load(payload)
    drawn = cx.Dense(3)
    drawn.build((None, 4))
    np.testing.assert_array_equal(drawn.weights["weights"].data, expected.weights["weights"].data)


def test_a_save_that_is_killed_leaves_the_old_file(tmp_path):
    path = tmp_path / "net.safetensors"
    net = cx.Sequential([cx.Dense(500)], input_shape=(500,))
    net.save(path)
    before = path.read_bytes()
    code = textwrap.dedent(f"""
        import cnnext as cx
        net = cx.Sequential([cx.Dense(500)], input_shape=(500,))
        print("ready", flush=True)
        while True:
            net.save({str(path)!r})
    """)
    for delay in (0.0, 0.01, 0.05, 0.1):
        path.write_bytes(before)
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE,
                              env={**os.environ, "PYTHONPATH": os.getcwd()}) as process:
            assert process.stdout.readline() == b"ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(delay)
            process.send_signal(signal.SIGKILL)
        assert load(path).count_params() == 250_500


# Wrong documents


def at(document, path, value):
    """The document with one place replaced, or removed for ``...``."""
    document = copy.deepcopy(document)
    *parents, last = path
    place = document
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return document


HUGE = 2**31 - 1


@pytest.mark.parametrize(("path", "value", "words"), [
    (("layers", 0, "type"), "cnnext/Conv3D@1", "unknown layer 'cnnext/Conv3D@1'"),
    (("layers", 0, "type"), "cnnext/Conv2D@99", "of another version"),
    (("layers", 0, "type"), "os/system@1", "unknown layer"),
    (("layers", 0, "type"), "cnnext/Model@1", "unknown layer"),
    (("layers", 0, "type"), 5, "a name must be text"),
    (("layers", 0, "name"), None, "a name must be text"),
    (("layers", 0, "name"), "narrow", "two layers have one name"),
    (("layers", 0, "name"), "other", "belongs to no layer"),
    (("layers", 0, "attributes", "filters"), HUGE, "`weights` must have the shapes weights (3, 3, 3, 2147483647)"),
    (("layers", 0, "attributes", "filters"), 2**70, "an integer of 22 digits"),
    (("layers", 0, "attributes", "filters"), "64", "`filters` must be a whole number"),
    (("layers", 0, "attributes", "kernel_size"), [3, 5], "`weights` must have the shapes"),
    (("layers", 0, "attributes", "kernel_size"), [HUGE, HUGE], "the shapes weights (2147483647, 214"),
    (("layers", 0, "attributes", "padding"), [[HUGE, HUGE], [HUGE, HUGE]], "`inputs` must have shapes"),
    (("layers", 0, "attributes", "strides"), [0, 1], "`strides` must be at least 1"),
    (("layers", 0, "attributes", "groups"), 2, "`groups` must divide"),
    (("layers", 0, "attributes", "no_such"), 1, "unknown argument 'no_such'"),
    (("layers", 0, "attributes", "name"), "x", "graph cannot be rebuilt"),
    (("layers", 0, "attributes", "activation"), "eval", "unknown activation 'eval'"),
    (("layers", 0, "attributes", "activation"), {"type": "cnnext/Dense@1", "attributes": {"units": HUGE}},
     "`activation` must be"),
    (("layers", 0, "attributes"), [1], "graph cannot be rebuilt"),
    (("layers", 0), ..., "belongs to no layer"),
    (("nodes", 0, "layer"), 99, "graph cannot be rebuilt"),
    (("nodes", 0, "layer"), -1, "at least 0"),
    (("nodes", 0, "layer"), True, "at least 0"),
    (("nodes", 0, "inputs"), [[0, 0]], "graph cannot be rebuilt"),  # itself
    (("nodes", 0, "inputs"), [[3, 0]], "graph cannot be rebuilt"),  # forward: a cycle
    (("nodes", 0, "inputs"), [["input", 1]], "graph cannot be rebuilt"),
    (("nodes", 0, "inputs"), [["input", -1]], "at least 0"),
    (("nodes", 0, "inputs"), [["input"]], "graph cannot be rebuilt"),
    (("nodes", 0, "inputs"), [], "`inputs` must be 1 value"),
    (("nodes", 2, "inputs"), [[0, 0]], "`inputs` must be two values or more"),
    (("nodes", 0, "inputs"), 7, "graph cannot be rebuilt"),
    (("nodes",), {}, "graph cannot be rebuilt"),
    (("outputs",), [], "`outputs` must be values"),
    (("outputs", 0), [99, 0], "graph cannot be rebuilt"),
    (("outputs",), ..., "graph cannot be rebuilt: 'outputs'"),
    (("inputs", 0, "shape"), [7, 9, 4], "`weights` must have the shapes"),
    (("inputs", 0, "shape"), [HUGE, HUGE, 3], "`weights` must have the shapes"),
    (("inputs", 0, "shape"), [7, -9, 3], "`shape` must be at least 1"),
    (("inputs", 0, "shape"), [7.5, 9, 3], "`shape` must be a whole number"),
    (("inputs", 0, "shape"), "79", "`shape` must be a tuple"),
    (("inputs",), [], "graph cannot be rebuilt"),
    (("name",), ["x"], "a name must be text"),
    (("format",), 2, "must be at most 1"),
    (("format",), "1", "must be a positive integer"),
])
def test_wrong_documents_are_model_file_errors(path, value, words):
    document, tensors = document_of(branched_net())
    document = at({"format": 1, **document}, path, value)
    tracemalloc.start()
    try:
        payload = raw_bytes(tensors, document)
        with pytest.raises(cx.ModelFileError) as caught:
            load(payload)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert words in str(caught.value)
    assert str(caught.value).startswith("model file")


def raw_bytes(tensors, document):
    """A file whose document nobody checked."""
    from safetensors.numpy import save

    return save(tensors, metadata={"cnnext": json.dumps(document)})


@pytest.mark.parametrize("change", [
    lambda t: {**t, "wide/weights": t["wide/weights"][:1]},
    lambda t: {**t, "wide/weights": t["wide/weights"].reshape(-1)},
    lambda t: {**t, "wide/weights": np.zeros((3, 3, 3, 5), np.int64)},
    lambda t: {k: a for k, a in t.items() if k != "wide/bias"},
    lambda t: {**t, "wide/extra": np.zeros(3, np.float32)},
    lambda t: {**t, "nobody/weights": np.zeros(3, np.float32)},
    lambda t: {**t, "loose": np.zeros(3, np.float32)},
    lambda t: {},
])
def test_tensors_must_be_those_of_the_layers(change):
    document, tensors = document_of(branched_net())
    with pytest.raises(cx.ModelFileError):
        load_document(document, change(tensors))


def test_a_loaded_document_may_not_name_a_layer_twice_with_two_sources():
    document, tensors = document_of(two_ended_net())
    document["inputs"][1]["shape"] = [5, 6, 4]
    with pytest.raises(cx.ModelFileError, match="`weights` must have shape"):
        load_document(document, tensors)


# Mutations


def places(value, path=()):
    """All places of a document."""
    yield path
    for key, child in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(child, (*path, key))


JUNK = [None, True, 0, -1, 1, 2, 3, 7, 64, HUGE, 2**63, 1e300, 0.5, "", "x", "input", "relu", "same", "cnnext/Dense@1",
        "cnnext/Add@1", [], [0], [0, 0], [[0, 0]], [1, 1], [[1, 1], [1, 1]], {},
        {"type": "cnnext/ReLU@1", "attributes": {}}]


def mutate(document, rng):
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        everywhere = list(places(document))
        path = rng.choice(everywhere[1:])
        other = rng.choice(everywhere[1:])
        found = document
        for key in other:
            found = found[key]
        document = at(document, path, rng.choice([..., rng.choice(JUNK), rng.choice(JUNK), copy.deepcopy(found)]))
        if len(list(places(document))) < 2:
            break
    return document


def run_if_small(net):
    """What loads also runs, or is refused for the shapes that it is given."""
    shapes = [v.shape for v in net.graph.inputs] + [v.shape for node in net.graph.nodes for v in node.outputs]
    if any(n is None for shape in shapes for n in shape[1:]) or any(prod(shape[1:]) > 1e5 for shape in shapes):
        return
    results = results_of(net, [images(2, *v.shape[1:]) for v in net.graph.inputs])
    for result, value in zip(results, net.graph.outputs, strict=True):
        assert result.shape == (2, *value.shape[1:])


def test_mutated_documents_load_or_are_refused():
    rng = random.Random(7)
    nets = [document_of(make()) for make in (branched_net, two_ended_net, channels_first_net)]
    payloads = []
    for i in range(3000):
        document, tensors = nets[i % len(nets)]
        payloads.append(raw_bytes(tensors, {"format": 1, **mutate(document, rng)}))
    tracemalloc.start()  # which makes everything slow: for some of them
    try:
        loaded = loadable(payloads[:300])
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    loaded += loadable(payloads[300:])
    assert 100 < len(loaded) < 2000
    for net in loaded:
        run_if_small(net)


def loadable(payloads):
    """The models of the files that are not refused."""
    models = []
    for payload in payloads:
        with contextlib.suppress(cx.ModelFileError):
            models.append(load(payload))
    return models


# Limits


def test_limits_are_for_the_kind_of_file():
    native = to_bytes(branched_net())
    net = cx.load(native, limits=cx.modelfile.Limits(max_bytes=len(native)))
    assert to_bytes(net) == native
    for make in (cx.load, cx.InferenceSession):
        with pytest.raises(cx.ModelFileError, match=r"limits\.max_bytes"):
            make(native, limits=cx.modelfile.Limits(max_bytes=len(native) - 1))
        with pytest.raises(TypeError, match=r"`limits` must be cnnext\.modelfile\.Limits for such a file"):
            make(native, limits=len(native))

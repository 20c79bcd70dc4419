"""``InferenceSession``: names, checks at the door, the caller's output arrays, sharing between Python threads."""

import multiprocessing
import os
import pickle
import sys
import threading
from importlib.util import find_spec

import numpy as np
import pytest

import cnnext as cx
from cnnext.serialization import to_bytes
from tests.helpers import branched_net, branched_twin, close, exact, images, two_ended_net


@pytest.fixture
def session():
    return cx.InferenceSession(branched_net(), num_threads=2)


def test_names_shapes_and_types():
    session = cx.InferenceSession(two_ended_net())
    assert [(a.name, a.shape, a.type) for a in session.get_inputs()] == [
        ("left", (None, 5, 6, 2), "tensor(float)"), ("right", (None, 5, 6, 2), "tensor(float)")]
    assert [a.name for a in session.get_outputs()] == ["difference", "product"]
    assert [a.shape for a in session.get_outputs()] == [(None, 3, 4, 3)] * 2


def test_from_model_file_and_bytes(tmp_path):
    net = branched_net()
    path = tmp_path / "net.safetensors"
    net.save(path)
    x = images(3, 7, 9, 3)
    for source in (net, path, str(path), to_bytes(net)):
        (y,) = cx.InferenceSession(source).run(None, {"image": x})
        np.testing.assert_array_equal(y, net.predict(x))


def test_outputs_in_the_order_asked_for():
    session = cx.InferenceSession(two_ended_net())
    feed = {"right": images(1, 5, 6, 2), "left": images(1, 5, 6, 2, seed=2)}
    difference, product = session.run(None, feed)
    swapped = session.run(["product", "difference", "product"], feed)
    for got, wanted in zip(swapped, (product, difference, product), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_weights_set_later_are_seen():
    net = branched_net()
    session = cx.InferenceSession(net)
    x = images(2, 7, 9, 3)
    session.run(None, {"image": x})
    net.set_weights([w * 2 for w in net.get_weights()])
    close(session.run(None, {"image": x})[0], branched_twin(exact(net.get_weights()), x.astype(np.float64)))


def test_one_bad_run_leaves_the_session_usable(session):
    x = images(2, 7, 9, 3)
    before = session.run(None, {"image": x})[0]
    with pytest.raises(ValueError):
        session.run(None, {"image": x[:, 1:]})
    np.testing.assert_array_equal(session.run(None, {"image": x})[0], before)


def test_results_are_the_callers(session):
    x = images(2, 7, 9, 3)
    first = session.run(None, {"image": x})[0]
    kept = first.copy()
    session.run(None, {"image": x + 1})
    np.testing.assert_array_equal(first, kept)


# The caller's arrays


def test_results_are_written_into_given_arrays(session):
    x = images(2, 7, 9, 3)
    given = np.full((2, 4), np.nan, np.float32)
    (y,) = session.run(None, {"image": x}, [given])
    assert y is given
    np.testing.assert_array_equal(given, session.run(None, {"image": x})[0])


def read_only():
    array = np.zeros((2, 4), np.float32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(("array", "error", "words"), [
    (np.zeros((2, 4)), TypeError, "output 'head': `dtype` must be float32"),
    (np.zeros((2, 3), np.float32), ValueError, r"output 'head': `shape` must be (2, 4)"),
    (np.zeros((4, 2), np.float32), ValueError, r"output 'head': `shape` must be (2, 4)"),
    (np.zeros((2, 8), np.float32)[:, ::2], ValueError, "`array` must be C contiguous"),
    (np.zeros((4, 2), np.float32).T, ValueError, "`array` must be C contiguous"),
    (np.zeros(33, np.uint8)[1:].view(np.float32).reshape(2, 4), ValueError, "aligned"),
    (read_only(), ValueError, "writeable"),
    ([[0.0] * 4] * 2, TypeError, "`array` must be a NumPy array"),
    (None, TypeError, "`array` must be a NumPy array"),
])
def test_arrays_that_cannot_take_the_result_are_refused(session, array, error, words):
    with pytest.raises(error) as caught:
        session.run(None, {"image": images(2, 7, 9, 3)}, [array])
    assert words in str(caught.value)


def test_the_number_of_arrays_is_checked(session):
    with pytest.raises(ValueError, match=r"`outputs` must be 1 array\(s\)\. Received outputs=0"):
        session.run(None, {"image": images(2, 7, 9, 3)}, [])


def test_results_must_not_overlap_inputs_or_each_other():
    x = cx.Input((4,), name="x")
    session = cx.InferenceSession(cx.Model(x, [cx.Dense(4, name="a")(x), cx.Dense(4, name="b")(x)]))
    memory = np.zeros((3, 4), np.float32)
    for outputs in ([memory[:2], np.zeros((2, 4), np.float32)], [memory[1:], memory[:2].copy()]):
        with pytest.raises(ValueError, match=r"output 'a': `array` must share no memory"):
            session.run(None, {"x": memory[:2]}, outputs)
    with pytest.raises(ValueError, match=r"output 'b': `array` must share no memory"):
        session.run(None, {"x": images(2, 4)}, [memory[:2], memory[1:]])


# The door


@pytest.mark.parametrize(("feed", "names", "error", "words"), [
    ({}, None, ValueError, "`input_feed` must contain 'image'"),
    ({"imag": 1}, None, ValueError, "unknown input 'imag'. Did you mean 'image'?"),
    ({"image": [[1.0]]}, None, TypeError, "`array` must be a NumPy array"),
    ({"image": np.zeros((1, 7, 9, 3), np.float32)}, ["hea"], ValueError, "unknown output 'hea'. Did you mean 'head'?"),
])
def test_bad_feeds(session, feed, names, error, words):
    with pytest.raises(error) as caught:
        session.run(names, feed)
    assert words in str(caught.value)


class Labelled(np.ndarray):
    """An array that is more than one."""


def test_what_is_not_like_the_last_run_is_checked(session):
    """A run like the one before skips the checks; anything else meets them."""
    x = images(2, 7, 9, 3)
    expected = session.run(None, {"image": x})[0]
    spread = np.repeat(x, 2, axis=3)[..., ::2]
    for alike in (spread, x.view(Labelled), np.asfortranarray(x), x.view(np.dtype(np.float32).newbyteorder("="))):
        np.testing.assert_array_equal(session.run(None, {"image": alike})[0], expected)
    np.testing.assert_array_equal(session.run(None, {"image": x[:1]})[0], session.run(None, {"image": x[:1].copy()})[0])
    session.run(None, {"image": x})
    for wrong in (x.astype(np.float64), x.tolist()):
        with pytest.raises(TypeError):
            session.run(None, {"image": wrong})
    for wrong in (x[0], x[:0]):
        with pytest.raises(ValueError, match="shape"):
            session.run(None, {"image": wrong})
    for feed in ({}, {"imag": x}, {"image": x, "other": x}):
        with pytest.raises(ValueError, match="session"):
            session.run(None, feed)
    np.testing.assert_array_equal(session.run(None, {"image": x})[0], expected)


def test_a_run_keeps_no_array(session):
    x = images(2, 7, 9, 3)
    session.run(None, {"image": x})
    before = sys.getrefcount(x)
    (y,) = session.run(None, {"image": x})
    assert sys.getrefcount(x) == before
    assert sys.getrefcount(y) == 2


def test_outputs_of_one_name_are_refused():
    x = cx.Input((4,), name="x")
    y = cx.Dense(3, name="d")(x)
    with pytest.raises(ValueError, match=r"`outputs` must have different names"):
        cx.InferenceSession(cx.Model(x, [y, y]))


def test_inputs_of_different_batches_are_refused():
    session = cx.InferenceSession(two_ended_net())
    with pytest.raises(ValueError, match=r"`batch` must be the same"):
        session.run(None, {"left": images(2, 5, 6, 2), "right": images(3, 5, 6, 2)})


# Sharing


def test_python_threads_share_a_session(session):
    batches = [images(n, 7, 9, 3, seed=n) for n in (1, 2, 3, 4)]
    expected = [session.run(None, {"image": x})[0] for x in batches]
    wrong = []
    start = threading.Barrier(4)

    def work(offset):
        start.wait()
        for i in range(100):
            k = (i + offset) % 4
            (y,) = session.run(None, {"image": batches[k]})
            if not np.array_equal(y, expected[k]):
                wrong.append((offset, i))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_pickling(session):
    copy = pickle.loads(pickle.dumps(session))
    x = images(2, 7, 9, 3)
    np.testing.assert_array_equal(copy.run(None, {"image": x})[0], session.run(None, {"image": x})[0])


def test_trim_gives_plans_back(session):
    plan = session.plan((1, 7, 9, 3))
    assert session.plan((1, 7, 9, 3)) is plan
    session.trim()
    assert session.plan((1, 7, 9, 3)) is not plan


# Sessions of files: weights stay there until they are packed

FORMATS = ["safetensors", *(["onnx"] if find_spec("onnx") is not None else [])]


def heavy_net(seed: int = 0) -> cx.Model:
    """Weights large enough to stay in a file."""
    cx.set_random_seed(seed)
    x = cx.Input((8, 8, 64), name="image")
    y = cx.Conv2D(64, 3, padding="same", activation="relu", name="conv")(x)
    y = cx.DepthwiseConv2D(3, name="depthwise")(cx.Conv2D(320, 1, name="point")(y))
    return cx.Model(x, cx.Dense(10, name="head")(cx.Flatten()(y)), name="heavy", num_threads=2)


@pytest.fixture(params=FORMATS)
def file(request, tmp_path):
    """``heavy_net`` in a file, written long ago."""
    path = tmp_path / f"net.{request.param}"
    written(heavy_net(), path)
    os.utime(path, (1, 1))
    return path


def written(net, path):
    (net.save if path.suffix == ".safetensors" else net.export_onnx)(path)


def predicted(session, batch=1):
    (argument,) = session.get_inputs()
    return session.run(None, {argument.name: images(batch, 8, 8, 64)})[0]


def in_file(session):
    return [p.name for p in session._model.parameters if p.stored is not None]


def test_large_weights_are_not_kept_beside_their_packed_form(file):
    session = cx.InferenceSession(file)
    waiting = in_file(session)
    assert len(waiting) >= 3
    close(predicted(session), heavy_net().predict(images(1, 8, 8, 64)))
    assert in_file(session) == waiting      # the depthwise weights are too small to wait
    assert all(p.stored is None for p in cx.load(file).parameters)


def test_files_bytes_and_models_give_the_same_bits(file):
    expected = predicted(cx.InferenceSession(cx.load(file)), 3)
    for source in (file, file.read_bytes()):
        session = cx.InferenceSession(source, num_threads=2)
        assert in_file(session)
        np.testing.assert_array_equal(predicted(session, 3), expected)


def test_the_file_may_be_removed_or_replaced_after_loading(file):
    expected = [predicted(cx.InferenceSession(file), n) for n in (1, 3)]
    session = cx.InferenceSession(file)
    other = file.with_name(f"other{file.suffix}")
    written(heavy_net(seed=1), other)
    os.replace(other, file)
    np.testing.assert_array_equal(predicted(session, 1), expected[0])
    assert np.abs(predicted(cx.InferenceSession(file), 1) - expected[0]).max() > 0
    file.unlink()
    np.testing.assert_array_equal(predicted(session, 3), expected[1])


def test_a_file_that_is_written_in_place_is_noticed(file):
    session = cx.InferenceSession(file)
    expected = predicted(session)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    np.testing.assert_array_equal(predicted(session), expected)     # packed already
    session.trim()
    with pytest.raises(cx.ModelFileError, match="was written to after it was opened; load it again"):
        predicted(session)


def test_weights_of_a_session_are_writable(file):
    session = cx.InferenceSession(file)
    before = predicted(session)
    model = session._model
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    assert not in_file(session) and all(p.data.flags.writeable for p in model.parameters)
    assert not predicted(session).any() and before.any()


@pytest.mark.parametrize("runs", [0, 1])
def test_pickling_a_session_of_a_file(file, runs):
    session = cx.InferenceSession(file)
    for _ in range(runs):
        predicted(session)
    waiting = in_file(session)
    file.unlink()
    copy = pickle.loads(pickle.dumps(session))
    assert in_file(session) == waiting      # writing them down keeps nothing
    np.testing.assert_array_equal(predicted(copy, 2), predicted(session, 2))


def _in_child(session, queue):
    queue.put(predicted(session, 2))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("runs", [0, 1])
def test_a_forked_child_reads_the_file(file, runs):
    session = cx.InferenceSession(file, num_threads=2)
    for _ in range(runs):
        predicted(session)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(session, queue))
    child.start()
    try:
        result = queue.get(timeout=60)
        child.join(60)
        assert child.exitcode == 0
    finally:
        child.kill()
    np.testing.assert_array_equal(result, predicted(session, 2))

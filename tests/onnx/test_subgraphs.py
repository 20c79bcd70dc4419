"""Shapes and branches that the data decides: If, Loop, detectors; against ONNX Runtime."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper

import cnnext as cx
from cnnext.graph import runner
from tests.helpers import images
from tests.onnx.exported import session
from tests.onnx.imported import check, equal, kernels, onnx_model

make = helper.make_node


def subgraph(name, nodes, outputs, inputs=(), initializers=()):
    declared = [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs]
    return helper.make_graph(nodes, name, declared, [helper.make_tensor_value_info(n, t, None) for n, t in outputs],
                             list(initializers))


def stages(ours, feed):
    """How many plans a run takes."""
    graph_runner, arrays, n = ours._runner, [feed[v.name] for v in ours.get_inputs()], 0
    while graph_runner is not None:
        known = {i: arrays[i].copy() for i in graph_runner._contents}
        stage = graph_runner._stage(tuple(x.shape for x in arrays), known)
        n += 1
        if stage.rest is not None:
            arrays = stage.rest.feeds(stage.plan.run(arrays, 1))
        graph_runner = stage.following
    return n


# Operands of the run


@pytest.mark.parametrize(("op_type", "first", "others"), [
    ("Reshape", [2, 60], [[0, -1], [6, 2, 10]]), ("Expand", [2, 3, 4, 5], [[3, 2, 3, 4, 5], [1]]),
    ("Tile", [1, 1, 2, 1], [[2, 1, 1, 3]]),
], ids=["Reshape", "Expand", "Tile"])
def test_target_shapes_of_the_run(op_type, first, others):
    x = images(2, 3, 4, 5)
    nodes = [make("Relu", ["x"], ["a"]), make(op_type, ["a", "s"], ["b"]), make("Neg", ["b"], ["y"])]
    for target in (first, *others):
        proto = onnx_model(nodes, {"x": x.shape, "s": (np.int64, (len(target),))}, ["y"])
        check(proto, {"x": x, "s": np.array(target)})


def test_slices_of_the_run():
    nodes = [make("Conv", ["x", "w"], ["a"]), make("Slice", ["a", "from", "to", "axes"], ["b"]),
             make("GlobalAveragePool", ["b"], ["y"])]
    proto = onnx_model(nodes, {"x": ("N", 3, "H", "W"), "from": (np.int64, (2,)), "to": (np.int64, (2,))}, ["y"],
                       {"w": images(4, 3, 3, 3), "axes": np.array([2, 3])})
    feeds = [{"x": images(2, 3, 9, 9), "from": np.array(a), "to": np.array(b)}
             for a, b in [([0, 0], [3, 3]), ([1, 2], [7, 4]), ([-2, -3], [99, -1]), ([0, 0], [7, 7])]]
    check(proto, *feeds)


def test_shapes_that_follow_from_shapes_need_no_stage():
    nodes = [make("Shape", ["x"], ["s"]), make("Gather", ["s", "zero"], ["n"]), make("Unsqueeze", ["n", "zeros"], ["n1"]),
             make("Concat", ["n1", "rest"], ["t"], axis=0), make("Conv", ["x", "w"], ["a"]),
             make("Reshape", ["a", "t"], ["y"])]
    proto = onnx_model(nodes, {"x": ("N", 3, 6, 6)}, ["y"],
                       {"w": images(4, 3, 3, 3), "zero": np.array(0), "zeros": np.array([0]), "rest": np.array([2, -1])})
    feeds = [{"x": images(n, 3, 6, 6)} for n in (1, 3)]
    assert not any(name.startswith("numpy") for name in check(proto, *feeds))
    assert stages(cx.InferenceSession(proto), feeds[0]) == 1


def test_nonzero_and_gather():
    nodes = [make("Conv", ["x", "w"], ["a"]), make("Greater", ["a", "zero"], ["m"]), make("NonZero", ["m"], ["i"]),
             make("Transpose", ["i"], ["j"], perm=[1, 0]), make("GatherND", ["a", "j"], ["v"]), make("Relu", ["v"], ["y"])]
    proto = onnx_model(nodes, {"x": ("N", 3, 6, 6)}, ["y", "j"], {"w": images(2, 3, 3, 3), "zero": np.float32(0)})
    nothing = {"x": np.zeros((1, 3, 6, 6), np.float32)}
    check(proto, *({"x": images(2, 3, 6, 6, seed=i)} for i in range(3)), nothing)
    assert stages(cx.InferenceSession(proto), {"x": images(2, 3, 6, 6)}) == 2


def detector(opset=17):
    """Scores and boxes of a convolutional head, suppressed, gathered, the best of them: as detectors end."""
    nodes = [
        make("Conv", ["x", "w"], ["head"], name="head", pads=[1, 1, 1, 1]), make("Shape", ["head"], ["hs"]),
        make("Split", ["head", "parts"], ["raw", "at"], axis=1), make("Sigmoid", ["raw"], ["p"]),
        make("Reshape", ["p", "scores_shape"], ["scores"]), make("Reshape", ["at", "boxes_shape"], ["b0"]),
        make("Transpose", ["b0"], ["corner"], perm=[0, 2, 1]), make("Abs", ["corner"], ["boxes"]),
        make("NonMaxSuppression", ["boxes", "scores", "most", "iou", "least"], ["chosen"], name="nms"),
        make("Gather", ["chosen", "box_columns"], ["box_at"], axis=1),
        make("GatherND", ["scores", "chosen"], ["kept"]), make("GatherND", ["boxes", "box_at"], ["kept_boxes"]),
        make("Shape", ["kept"], ["n"]), make("Min", ["n", "five"], ["k"]), make("TopK", ["kept", "k"], ["best", "order"]),
        make("Gather", ["kept_boxes", "order"], ["best_boxes"]),
    ]
    tensors = {
        "w": images(6, 3, 3, 3), "parts": np.array([2, 4]), "scores_shape": np.array([0, 2, -1]),
        "boxes_shape": np.array([0, 4, -1]), "most": np.array([6]), "iou": np.array([0.5], np.float32),
        "least": np.array([0.3], np.float32), "box_columns": np.array([0, 2]),
        "five": np.array([5]),
    }
    return onnx_model(nodes, {"x": ("N", 3, "H", "W")}, ["best", "best_boxes", "chosen"], tensors, opset)


def test_a_detector_runs_to_the_boxes(monkeypatch):
    proto = detector()
    check(proto, *({"x": images(n, 3, 6, w, seed=n)} for n, w in [(1, 6), (2, 6), (1, 9)]))
    ours = cx.InferenceSession(proto)
    assert any("conv" in name for name in kernels(ours, {"x": images(1, 3, 6, 6)}))
    again = pickle.loads(pickle.dumps(cx.load(proto)))
    x = images(2, 3, 6, 6)
    for got, wanted in zip(again.predict(x), ours.run(None, {"x": x}), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_a_layer_behind_what_the_data_decides_is_native():
    nodes = [make("ReduceMax", ["x"], ["m"], axes=[1, 2, 3], keepdims=0), make("Greater", ["m", "limit"], ["sure"]),
             make("NonZero", ["sure"], ["i0"]), make("Squeeze", ["i0", "first"], ["i"]),
             make("Gather", ["x", "i"], ["some"]), make("Conv", ["some", "w"], ["c"]), make("Relu", ["c"], ["y"])]
    proto = onnx_model(nodes, {"x": ("N", 3, 5, 5)}, ["y"],
                       {"w": images(4, 3, 3, 3), "limit": np.float32(2.4), "first": np.array([0])})
    feeds = [{"x": images(8, 3, 5, 5, seed=i)} for i in range(3)]
    check(proto, *feeds)
    assert 0 < len(cx.InferenceSession(proto).run(None, feeds[0])[0]) < 8


# Plans are kept


class Counted(runner.Plan):
    """Plans, counted."""

    made = 0

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        Counted.made += 1


@pytest.fixture
def plans(monkeypatch):
    monkeypatch.setattr(runner, "Plan", Counted)
    Counted.made = 0
    return Counted


def sliced():
    nodes = [make("Relu", ["x"], ["a"]), make("Reshape", ["a", "s"], ["b"]), make("Neg", ["b"], ["y"])]
    return onnx_model(nodes, {"x": ("N", 12), "s": (np.int64, (2,))}, ["y"])


def test_the_same_shapes_and_contents_are_planned_once(plans):
    ours, x = cx.InferenceSession(sliced()), images(2, 12)
    made = []
    for target in ([4, 6], [4, 6], [6, 4], [4, 6], [6, 4]):
        (y,) = ours.run(None, {"x": x, "s": np.array(target)})
        np.testing.assert_array_equal(y, -np.maximum(x, 0).reshape(target))
        made.append(plans.made)
    assert made == [made[0], made[0], made[0] + 1, made[0] + 1, made[0] + 1]
    ours.run(None, {"x": images(2, 12, seed=9), "s": np.array([4, 6])})    # other data that no shape depends on
    assert plans.made == made[-1]
    ours.run(None, {"x": images(4, 12), "s": np.array([8, 6])})
    assert plans.made > made[-1]


def test_no_more_plans_are_kept_than_said(plans):
    ours, x = cx.InferenceSession(sliced()), images(60, 12)
    targets = [[a, 720 // a] for a in range(1, 31) if 720 % a == 0][: runner.MAX_PLANS + 3]
    for target in targets:
        ours.run(None, {"x": x, "s": np.array(target)})
    (stage,) = ours._runner._stages.values()
    assert len(stage.following._stages) == runner.MAX_PLANS
    before = plans.made
    ours.run(None, {"x": x, "s": np.array(targets[-1])})
    assert plans.made == before                              # the latest is there,
    ours.run(None, {"x": x, "s": np.array(targets[0])})
    assert plans.made == before + 1                          # the oldest was dropped
    ours.trim()
    assert not ours._runner._stages


def test_the_callers_array_may_change_behind_our_back():
    ours, x, target = cx.InferenceSession(sliced()), images(2, 12), np.array([4, 6])
    ours.run(None, {"x": x, "s": target})
    target[:] = [3, 8]
    assert ours.run(None, {"x": x, "s": target})[0].shape == (3, 8)
    assert ours.run(None, {"x": x, "s": np.array([4, 6])})[0].shape == (4, 6)


# If and Loop


def conditional(condition_nodes, inputs, tensors):
    """A convolution, then one of two heads of different shapes."""
    then = subgraph("then", [make("Mul", ["c", "two"], ["t0"]), make("Relu", ["t0"], ["t"])], [("t", 1)])
    other = subgraph("else", [make("GlobalAveragePool", ["c"], ["e"])], [("e", 1)])
    nodes = [make("Conv", ["x", "w"], ["c"]), *condition_nodes,
             make("If", ["go"], ["h"], name="choice", then_branch=then, else_branch=other), make("Neg", ["h"], ["y"])]
    return onnx_model(nodes, {"x": ("N", 3, 6, 6), **inputs}, ["y"],
                      {"w": images(4, 3, 3, 3), "two": np.float32(2), **tensors})


def test_if_by_an_input():
    proto = conditional([], {"go": (np.bool_, ())}, {})
    feeds = [{"x": images(2, 3, 6, 6), "go": np.array(go)} for go in (True, False, True)]
    check(proto, *feeds)


def test_if_by_the_data():
    proto = conditional([make("ReduceMean", ["c"], ["m"], keepdims=0), make("Greater", ["m", "zero"], ["go"])], {},
                        {"zero": np.float32(0)})
    x = images(2, 3, 6, 6)
    feeds = [{"x": x}, {"x": -x}]
    check(proto, *feeds)
    assert {y.ndim * y.size for y in (cx.InferenceSession(proto).run(None, f)[0] for f in feeds)} == {4 * 128, 4 * 8}


def test_if_by_a_shape_is_decided_when_the_plan_is_made():
    proto = conditional([make("Shape", ["x"], ["s"]), make("Gather", ["s", "zero"], ["n"]),
                         make("Equal", ["n", "one"], ["go"])], {}, {"zero": np.array(0), "one": np.array(1)})
    feeds = [{"x": images(n, 3, 6, 6)} for n in (1, 2)]
    assert not any(name.startswith("numpy") for name in check(proto, *feeds))
    assert stages(cx.InferenceSession(proto), feeds[0]) == 1


def test_if_in_if():
    inner = make("If", ["b"], ["i"], then_branch=subgraph("tt", [make("Neg", ["x"], ["nx"])], [("nx", 1)]),
                 else_branch=subgraph("te", [make("Abs", ["x"], ["ax"])], [("ax", 1)]))
    nodes = [make("If", ["a"], ["y"], then_branch=subgraph("t", [inner], [("i", 1)]),
                  else_branch=subgraph("e", [make("Exp", ["x"], ["ex"])], [("ex", 1)]))]
    proto = onnx_model(nodes, {"x": ("N", 3), "a": (np.bool_, ()), "b": (np.bool_, ())}, ["y"])
    check(proto, *({"x": images(2, 3), "a": np.array(a), "b": np.array(b)} for a in (True, False) for b in (True, False)))


def looped(extra_condition=False):
    body_nodes = [make("Mul", ["v", "factor"], ["m"]), make("Add", ["m", "x"], ["v_out"]),
                  make("ReduceSum", ["v_out"], ["total"], keepdims=0)]
    body_nodes.append(make("Less", ["total", "limit"], ["more_out"]) if extra_condition
                      else make("Identity", ["more"], ["more_out"]))
    body = subgraph("body", body_nodes, [("more_out", TensorProto.BOOL), ("v_out", 1), ("total", 1)],
                    [("i", TensorProto.INT64, ()), ("more", TensorProto.BOOL, ()), ("v", 1, None)])
    nodes = [make("Loop", ["n", "true", "x"], ["last", "totals"], name="loop", body=body), make("Relu", ["last"], ["y"])]
    return onnx_model(nodes, {"x": ("N", 3), "n": (np.int64, ())}, ["y", "totals"],
                      {"factor": np.float32(0.5), "limit": np.float32(8), "true": np.array(True)})


@pytest.mark.parametrize("extra_condition", [False, True])
def test_loops(extra_condition):
    feeds = [{"x": np.abs(images(2, 3)), "n": np.array(n)} for n in (1, 4, 9)]
    check(looped(extra_condition), *feeds)


def test_a_loop_that_does_not_run():
    x = images(2, 3)
    y, totals = cx.InferenceSession(looped()).run(None, {"x": x, "n": np.array(0)})
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    assert totals.shape == (0,)


def test_endless_loops_are_refused():
    ours = cx.InferenceSession(looped())
    with pytest.raises(ValueError, match="Loop .*: at most 50000 iterations"):
        ours.run(None, {"x": images(2, 3), "n": np.array(60_000)})


def nested():
    """A branch in a branch, with a weight inside."""
    inner = make("If", ["b"], ["i"], then_branch=subgraph("tt", [make("Conv", ["x", "w"], ["nx"])], [("nx", 1)],
                                                          initializers=[numpy_helper.from_array(images(2, 3, 1, 1), "w")]),
                 else_branch=subgraph("te", [make("Abs", ["x"], ["ax"])], [("ax", 1)]))
    nodes = [make("If", ["a"], ["y"], then_branch=subgraph("t", [inner], [("i", 1)]),
                  else_branch=subgraph("e", [make("Exp", ["x"], ["ex"])], [("ex", 1)]))]
    return onnx_model(nodes, {"x": ("N", 3, 4, 4), "a": (np.bool_, ()), "b": (np.bool_, ())}, ["y"])


def test_control_flow_is_saved_and_pickled(tmp_path):
    x = images(2, 3, 4, 4)
    cases = [(nested(), {"x": x, "a": np.array(a), "b": np.array(b)}) for a in (True, False) for b in (True, False)]
    cases += [(looped(True), {"x": np.abs(images(2, 3)), "n": np.array(4)})]
    for proto, feed in cases:
        cx.load(proto).save(tmp_path / "net.safetensors")
        wanted = session(proto).run(None, feed)
        pickled = pickle.loads(pickle.dumps(cx.InferenceSession(proto)))
        for ours in (cx.InferenceSession(tmp_path / "net.safetensors"), pickled):
            for got, array in zip(ours.run(None, feed), wanted, strict=True):
                equal(got, array)

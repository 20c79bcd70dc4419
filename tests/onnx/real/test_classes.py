"""EfficientNet-Lite0 names what is in photographs, in float32 and in the two int8 forms of ONNX Runtime's quantizer."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnxruntime import quantization

from tests.onnx.real.efficientnet import classify, image, lite0
from tests.onnx.real.engines import Both, assert_close, open_cnnext, open_onnxruntime

CATS = [281, 282, 283, 284, 285, 287]  # tabby, tiger cat, Persian, Siamese, Egyptian, lynx
NAMED = {"chelsea.png": (285, "Egyptian cat"), "coffee.png": (967, "espresso"), "motorcycle_left.png": (665, "moped")}
CALIBRATION = ["astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png",
               "motorcycle_left.png", "rocket.jpg", "page.png"]


@pytest.fixture(scope="module")
def model():
    return lite0()


@pytest.mark.parametrize("batch", [1, 3])
def test_it_names_the_cat_and_the_cup(model, batch):
    session, names = Both(model), list(NAMED)
    probabilities = np.concatenate([classify(session, *names[i : i + batch]) for i in range(0, len(names), batch)])
    for name, p in zip(names, probabilities):
        assert p.argmax() == NAMED[name][0], f"{name} is {NAMED[name][1]}"
    assert probabilities[names.index("coffee.png"), 967] > 0.9
    assert probabilities[names.index("chelsea.png"), CATS].sum() > 0.9


@pytest.fixture(scope="module", params=["QDQ", "QOperator"])
def quantized(request, model, tmp_path_factory):
    """uint8 activations, int8 weights for each channel, from ten photographs."""
    class Photographs(quantization.CalibrationDataReader):
        def __init__(self):
            self.names = iter(CALIBRATION)

        def get_next(self):
            name = next(self.names, None)
            return None if name is None else {"image": image(name)[np.newaxis]}

    folder = tmp_path_factory.mktemp("int8")
    onnx.save(model, folder / "float.onnx")
    quantization.quantize_static(
        folder / "float.onnx", folder / "int8.onnx", Photographs(), per_channel=True,
        quant_format=quantization.QuantFormat[request.param], activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8)
    return str(folder / "int8.onnx")


def test_quantized(quantized, model):
    """The cat is still a cat and the cup a cup; a value that is rounded the other way moves a logit by less than 5 %."""
    session, exact = open_cnnext(quantized), open_onnxruntime(quantized)
    found = classify(session, *NAMED)
    assert found[0].argmax() in CATS and found[1].argmax() == 967
    assert found[0, CATS].sum() > 0.9
    feed = {"image": np.stack([image(name) for name in NAMED])}
    expected = exact.run(None, feed)
    assert_close(session.run(None, feed), expected, 0.05)
    original = open_onnxruntime(model).run(None, feed)
    assert np.abs(expected[0] - original[0]).max() > 0.01  # it is another network

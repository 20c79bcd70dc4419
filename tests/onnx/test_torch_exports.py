"""Ten networks as PyTorch's two exporters write them: results of ONNX Runtime, and transposes at the interface alone.

Needs ``pip install torch onnxscript`` and ``pip install --no-deps torchvision``, which cnnext does not depend on.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("torch")

import onnx
import torch

import cnnext as cx
from tests.helpers import close, images
from tests.models.test_torchvision import torch_model
from tests.onnx.exported import session
from tests.onnx.imported import is_native, plan

pytestmark = pytest.mark.slow

NETS = ["lenet5", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "resnet18", "resnet50",
        "densenet121", "unet", "vgg16"]


def lenet5():
    nn = torch.nn
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)).eval()


def exported(model, shape, exporter):
    """The ModelProto, its batch open."""
    x = torch.randn(2, *shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "torchscript":
            file = io.BytesIO()
            torch.onnx.export(model, x, file, dynamo=False, opset_version=17, input_names=["input"],
                              output_names=["output"], dynamic_axes={"input": {0: "N"}, "output": {0: "N"}})
            return onnx.load_from_string(file.getvalue())
        pytest.importorskip("onnxscript")
        program = torch.onnx.export(model, (x,), dynamo=True, input_names=["input"], output_names=["output"],
                                    dynamic_shapes=({0: torch.export.Dim("N")},), verbose=False)
    return program.model_proto


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", NETS)
def test_results(name, exporter):
    model, shape = (lenet5(), (1, 28, 28)) if name == "lenet5" else (torch_model(name), (3, 224, 224))
    proto = exported(model, shape, exporter)
    there, ours = session(proto), cx.InferenceSession(proto)
    for n in (1, 5):
        x = images(n, *shape)
        (wanted,) = there.run(None, {"input": x})
        (got,) = ours.run(None, {"input": x})
        assert np.ptp(wanted) > 1e-3 * np.abs(wanted).max()
        close(got, wanted, 1e-4)
        steps = [step.kernel for step in plan(ours, {"input": x}).steps]
        assert is_native(steps)
        # The interface is channels-first; a result that is an image is brought back at the end.
        assert "transpose" not in steps[1 : -1 if got.ndim == 4 else None]

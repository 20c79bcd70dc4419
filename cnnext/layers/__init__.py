"""The built-in layers. A name is imported when it is first used, so that ``import cnnext`` stays fast."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Class -> module: what ``cnnext.<Class>`` and a model file's ``cnnext/<Class>@1`` resolve to.
LAYERS: dict[str, str] = {
    name: module
    for module, names in {
        "activation": "CELU Clip ELU GELU HardSigmoid HardSwish LeakyReLU Mish ReLU ReLU6 SELU Shrink SiLU Sigmoid Softplus "
        "Softsign Tanh ThresholdedReLU",
        "concat": "Concat",
        "conv2d": "Conv1D Conv2D",
        "conv2d_transpose": "Conv2DTranspose",
        "crop2d": "Crop2D",
        "dense": "Dense",
        "depthwise_conv2d": "DepthwiseConv2D",
        "dropout": "Dropout SpatialDropout2D",
        "elementary": "Abs Ceil Erf Exp Floor Log Negate Power Reciprocal Round Sign Sqrt Square",
        "elementwise": "Add Average Divide Maximum Minimum Multiply Subtract",
        "flatten": "Flatten",
        "locally_connected2d": "LocallyConnected2D",
        "matmul": "MatMul",
        "pad": "Pad",
        "permute": "Permute Transpose",
        "pooling": "AvgPool2D GlobalAvgPool2D GlobalMaxPool2D LpPool2D MaxPool2D",
        "prelu": "PReLU",
        "reduce": "ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare",
        "reshape": "Reshape",
        "resize": "Resize",
        "separable_conv2d": "SeparableConv2D",
        "softmax": "LogSoftmax Softmax",
        "upsample2d": "UpSample2D",
        "zero_pad2d": "ZeroPad2D",
    }.items()
    for name in names.split()
}


# What only models from elsewhere have: a name of model files, none of ``cnnext``.
IMPORTED: dict[str, str] = {"OnnxOperator": "cnnext.onnx.layer"}


def layer_class(name: str) -> Any:
    """A built-in layer's class by its short name."""
    return getattr(import_module(IMPORTED.get(name) or f"cnnext.layers.{LAYERS[name]}"), name)

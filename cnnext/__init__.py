"""cnnext: a convolutional-network engine for CPUs. The public names, each imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from cnnext.errors import CnnextError, KernelError, ModelFileError, PluginError
from cnnext.layers import LAYERS

_MODULES: dict[str, str] = {
    "Input": "cnnext.layers.input",
    "Layer": "cnnext.layers.layer",
    "Model": "cnnext.model",
    "Sequential": "cnnext.model",
    "InferenceSession": "cnnext.session",
    "load": "cnnext.serialization",
    "from_pattern": "cnnext.pattern",
    "conv_output_size": "cnnext.geometry",
    "receptive_field": "cnnext.summary",
    "set_random_seed": "cnnext.training.initializers",
    "show_config": "cnnext.config",
    **dict.fromkeys(("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Lamb", "ParameterGroup"), "cnnext.training.optimizers"),
    **dict.fromkeys(("Constant", "Identity", "Initializer", "Orthogonal", "RandomNormal", "RandomUniform", "TruncatedNormal",
                     "VarianceScaling"), "cnnext.training.initializers"),
    **dict.fromkeys(("L1", "L2", "L1L2"), "cnnext.training.regularizers"),
    **dict.fromkeys(("StepDecay", "CosineDecay", "OneCycle", "WarmUp"), "cnnext.training.schedules"),
    **dict.fromkeys(("SparseCategoricalCrossentropy", "CategoricalCrossentropy", "BinaryCrossentropy", "MeanSquaredError",
                     "MeanAbsoluteError", "Huber", "Hinge", "Dice"), "cnnext.training.losses"),
    **dict.fromkeys(("TopKAccuracy", "TopKErrorRate", "BinaryAccuracy", "ConfusionMetric", "ConfusionMatrix", "Precision",
                     "Recall", "F1Score", "MeanIoU"), "cnnext.training.metrics"),
    **dict.fromkeys(("confusion_matrix", "precision", "recall", "f1_score", "mean_iou"), "cnnext.training.confusion"),
    **dict.fromkeys(("Callback", "CSVLogger", "EarlyStopping", "JSONLinesLogger", "ModelCheckpoint", "ReduceLROnPlateau",
                     "TensorBoardLogger"), "cnnext.training.callbacks"),
    **{name: f"cnnext.layers.{module}" for name, module in LAYERS.items()},
}

__all__ = ["CnnextError", "KernelError", "ModelFileError", "PluginError", "layer", *sorted(_MODULES)]


def layer(name: str) -> Any:
    """The class of a layer by name, built in or from a plugin: ``cx.layer("normalization/BatchNorm")``."""
    from cnnext.plugins import layer_class

    return layer_class(name)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("cnnext")
    if name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
        globals()[name] = value
        return value
    if name in ("data", "modelfile", "models", "onnx", "plot", "plugins", "reference", "sklearn", "testing", "training"):
        return import_module(f"cnnext.{name}")
    from cnnext.errors import unknown

    raise AttributeError(f"cnnext: {unknown('name', name, __all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

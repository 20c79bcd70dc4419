"""Networks built from the public layers, each family imported when one of its networks is first used.

All but LeNet-5 and U-Net follow torchvision's definitions, and U-Net is written likewise: paddings, strides, epsilons, the
order of operations, logits at the end. Their layers have the names of PyTorch's modules (``layer1.0.conv1``,
``features.3.fc1``), so that weights are carried over by name.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Network -> module. A module has another name than its networks: it would take their place in this namespace.
_MODULES: dict[str, str] = {
    name: module
    for module, names in {
        "densenet": "densenet121",
        "efficientnet": "efficientnet_b0",
        "lenet": "lenet5",
        "mobilenetv2": "mobilenet_v2",
        "mobilenetv3": "mobilenet_v3_large mobilenet_v3_small",
        "resnet": "resnet18 resnet34 resnet50",
        "squeezenet": "squeezenet1_1",
        "u_net": "unet",
        "vgg": "vgg11 vgg13 vgg16 vgg19",
    }.items()
    for name in names.split()
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = getattr(import_module(f"cnnext.models.{_MODULES[name]}"), name)
        globals()[name] = value
        return value
    from cnnext.errors import unknown

    raise AttributeError(f"cnnext.models: {unknown('network', name, _MODULES)}")


def __dir__() -> list[str]:
    return __all__

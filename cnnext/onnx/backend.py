"""The ONNX backend API: ``cx.onnx.backend.prepare(model_proto).run(inputs)``.

For ONNX's own conformance suite, and for programs that speak to backends: see ``onnx.backend.base``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnext.model import Model
from cnnext.onnx.files import require_onnx
from cnnext.onnx.importer import load
from cnnext.session import InferenceSession

require_onnx()

from onnx.backend.base import Backend, BackendRep, namedtupledict  # noqa: E402  (the error above says what to install)

__all__ = ["CnnextBackend", "CnnextRep", "is_compatible", "prepare", "run_model", "run_node", "supports_device"]


class CnnextRep(BackendRep):
    """A model ready to run.

    Parameters
    ----------
    model : Model
    num_threads : int, optional
    """

    def __init__(self, model: Model, num_threads: int | None = None):
        self.session = InferenceSession(model, num_threads)

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Outputs for inputs: a list in the order of the model's inputs, a dict by name, or one array."""
        arguments = self.session.get_inputs()
        if isinstance(inputs, dict):
            feed = {name: _array(array) for name, array in inputs.items()}
        else:
            arrays = inputs if isinstance(inputs, (list, tuple)) else [inputs]
            if len(arrays) > len(arguments):
                raise ValueError(f"backend: takes {len(arguments)} inputs. Received {len(arrays)}.")
            feed = {argument.name: _array(array) for argument, array in zip(arguments, arrays, strict=False)}
        results = self.session.run(None, feed)
        return namedtupledict("Outputs", [value.name for value in self.session.get_outputs()])(*results)


def _array(value: Any) -> np.ndarray:
    """An array, a number, or an ``onnx.TensorProto`` as an array."""
    import onnx

    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


class CnnextBackend(Backend):
    """cnnext as a backend of the package ``onnx``, on the device ``"CPU"``."""

    @classmethod
    def is_compatible(cls, model: Any, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether something installed computes all of the model's operators."""
        from cnnext.errors import ModelFileError

        try:
            load(model)
        except ModelFileError:
            return False
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> CnnextRep:
        """A model (``onnx.ModelProto``, path or bytes) made ready to run."""
        if not cls.supports_device(device):
            raise ValueError(f"backend: `device` must be 'CPU'. Received device={device!r}.")
        return CnnextRep(load(model), kwargs.get("num_threads"))

    @classmethod
    def run_model(cls, model: Any, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Prepare a model and run it once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(cls, node: Any, inputs: Any, device: str = "CPU", outputs_info: Sequence[tuple[Any, Any]] | None = None,
                 **kwargs: Any) -> tuple[Any, ...]:
        """Run a single ``onnx.NodeProto`` of the newest operator set."""
        import onnx

        names = [name for name in node.input if name]
        given = inputs if isinstance(inputs, dict) else dict(zip(names, inputs, strict=True))
        arrays = {name: _array(given[name]) for name in names}
        values = [onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
                  for name, a in arrays.items()]
        outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name]
        version = kwargs.get("opset_version", onnx.defs.onnx_opset_version())
        model = onnx.helper.make_model(onnx.helper.make_graph([node], node.op_type, values, outputs),
                                       opset_imports=[onnx.helper.make_opsetid(node.domain, version)])
        return cls.run_model(model, arrays, device)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """``"CPU"`` alone."""
        return device == "CPU"


is_compatible = CnnextBackend.is_compatible
prepare = CnnextBackend.prepare
run_model = CnnextBackend.run_model
run_node = CnnextBackend.run_node
supports_device = CnnextBackend.supports_device

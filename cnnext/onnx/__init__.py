"""ONNX in and out: importer, exporter, and the ONNX backend API. Needs the package ``onnx`` (``cnnext[onnx]``)."""

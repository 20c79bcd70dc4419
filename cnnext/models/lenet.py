"""LeNet-5, the network that read the digits on bank cheques."""

from __future__ import annotations

from collections.abc import Sequence

from cnnext.layers.activation import ReLU
from cnnext.layers.conv2d import Conv2D
from cnnext.layers.dense import Dense
from cnnext.layers.flatten import Flatten
from cnnext.layers.pooling import MaxPool2D
from cnnext.layers.softmax import Softmax
from cnnext.model import Sequential


def lenet5(classes: int = 10, input_shape: Sequence[int | None] = (28, 28, 1)) -> Sequential:
    """LeNet-5 in its present-day form: ReLU for the scaled tanh, max-pooling for trainable sums, softmax at the end.

    Parameters
    ----------
    classes : int
        Outputs: the probability of each class.
    input_shape : (rows, columns, channels)
        At least 12 rows and columns.

    Returns
    -------
    Sequential
        Input (N, rows, columns, channels), output (N, classes); 61,706 parameters for the default arguments.

    References
    ----------
    Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition", 1998, figure 2.
    There the 28 x 28 digits lie in the middle of 32 x 32 images; here the first layer pads them (``"same"``).
    """
    return Sequential(
        [
            Conv2D(6, 5, padding="same", name="conv1"),
            ReLU(name="relu1"),
            MaxPool2D(2, name="pool1"),
            Conv2D(16, 5, name="conv2"),
            ReLU(name="relu2"),
            MaxPool2D(2, name="pool2"),
            Flatten(name="flatten"),
            Dense(120, name="dense1"),
            ReLU(name="relu3"),
            Dense(84, name="dense2"),
            ReLU(name="relu4"),
            Dense(classes, name="dense3"),
            Softmax(name="probabilities"),
        ],
        input_shape=input_shape,
        name="lenet5",
    )

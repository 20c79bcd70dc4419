"""Estimators of scikit-learn (extra ``sklearn``): ``CNNClassifier`` and ``CNNRegressor``.

Each trains a network and passes scikit-learn's ``check_estimator``, so it works wherever an estimator does: ``Pipeline``,
``cross_val_score``, ``GridSearchCV``. An estimator draws from a random generator of its own, made from its ``random_state``:
it neither uses nor changes that of ``cnnext.set_random_seed``.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, TypeVar

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state, column_or_1d, compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets, unique_labels
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError:
    raise ImportError("cnnext.sklearn needs scikit-learn 1.6 or newer. Install it: pip install 'cnnext[sklearn]'") from None

from cnnext.data.augment import Augmentation, Mixture
from cnnext.data.source import Arrays
from cnnext.errors import message
from cnnext.layers.activation import ReLU
from cnnext.layers.attributes import as_int
from cnnext.layers.conv2d import Conv2D
from cnnext.layers.dense import Dense
from cnnext.layers.flatten import Flatten
from cnnext.layers.layer import Layer
from cnnext.layers.pooling import MaxPool2D
from cnnext.model import Model, Sequential
from cnnext.models.build import Builder, build, build_classifier, ends_in_softmax
from cnnext.training.callbacks import Callback
from cnnext.training.initializers import drawing_from, generator
from cnnext.training.losses import Loss, SparseCategoricalCrossentropy
from cnnext.training.optimizers import Optimizer, get_optimizer

__all__ = ["CNNClassifier", "CNNRegressor"]

Self = TypeVar("Self", bound="_Estimator")

SMALLEST_POOLED = 8     # rows and columns of an image that the default network still halves


class _Estimator(BaseEstimator, ABC):
    """What both estimators share. A subclass builds the network, names the loss and prepares the targets."""

    @abstractmethod
    def _build(self) -> Model:
        """A new network."""

    @abstractmethod
    def _loss(self) -> str | Loss:
        """What it is trained with."""

    def _metrics(self) -> list[str]:
        return []

    def _fit(self: Self, x: np.ndarray, y: np.ndarray) -> Self:
        """All epochs, from new weights."""
        self._begin()
        with drawing_from(self._generator):
            data, targets = self._training_data(x, y, shuffled=bool(self.validation_split))
            history = self.model_.fit(data, targets, batch_size=self.batch_size, epochs=self.epochs,
                                      validation_split=self.validation_split, verbose=self.verbose,
                                      callbacks=copy.deepcopy(list(self.callbacks)))
        self.history_ = history.history
        self.n_epochs_ = len(history.epochs)
        return self

    def _fit_more(self: Self, x: np.ndarray, y: np.ndarray, first: bool) -> Self:
        """One epoch, from the weights there are."""
        if first:
            self._begin()
        elif self.model_.optimizer is None:     # of a copy that was pickled
            self._compile()
        with drawing_from(self._generator):
            data, targets = self._training_data(x, y, shuffled=False)
            self.model_.fit(data, targets, batch_size=self.batch_size, epochs=1, verbose=self.verbose)
        return self

    def _begin(self) -> None:
        """A new network, and the generator that it is initialized from."""
        self._generator = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))
        with drawing_from(self._generator):
            self.model_ = self._build()
        self.model_.num_threads = self.num_threads
        self._compile()

    def _compile(self) -> None:
        optimizer = copy.deepcopy(get_optimizer(self.optimizer))
        if self.learning_rate is not None:
            optimizer.learning_rate = self.learning_rate
        self.model_.compile(optimizer, self._loss(), self._metrics())

    def _training_data(self, x: np.ndarray, y: np.ndarray, shuffled: bool) -> tuple[Any, np.ndarray | None]:
        """What ``Model.fit`` takes. ``fit`` validates on the end of the data, which may be sorted: hence ``shuffled``."""
        if shuffled:
            order = generator().permutation(len(x))
            x, y = x[order], y[order]
        if not len(self.augment) and self.mix is None:
            return x, y
        return Arrays(x, y, augment=tuple(self.augment), mix=self.mix), None

    def _examples_and_targets(self, X: Any, y: Any, reset: bool, **rules: Any) -> tuple[np.ndarray, np.ndarray]:
        """Examples in the network's shape, float32, and targets, checked by scikit-learn. ``reset``: they set the shape."""
        given = self._given_shape(X, reset)
        x, y = validate_data(self, _flat(X), y, reset=reset, dtype=np.float32, **rules)
        if reset:
            self.input_shape_ = self._input_shape(given)
        return x.reshape(len(x), *self.input_shape_), y

    def _examples(self, X: Any) -> np.ndarray:
        """Examples alone, for a network that there is."""
        self._given_shape(X, reset=False)
        x = validate_data(self, _flat(X), reset=False, dtype=np.float32)
        return x.reshape(len(x), *self.input_shape_)

    def _given_shape(self, X: Any, reset: bool) -> tuple[int, ...] | None:
        """Of an example in an array of images; None for a table."""
        if not _is_images(X):
            return None
        given = X.shape[1:]
        if not reset and given not in (self.input_shape_, self.input_shape_[:-1]):
            raise ValueError(message(type(self).__name__, "X", f"hold examples of shape {self.input_shape_}", X))
        return given

    def _input_shape(self, given: tuple[int, ...] | None) -> tuple[int, ...]:
        where, features = type(self).__name__, self.n_features_in_
        if self.image_shape is None:
            return given or (features,)
        shape = tuple(as_int(where, "image_shape", n, minimum=1) for n in self.image_shape)
        if prod(shape) != features:
            raise ValueError(message(where, "image_shape", f"have as many elements as X has features ({features})", shape))
        if given not in (None, shape, shape[:-1]):
            raise ValueError(message(where, "X", f"hold examples of the image_shape {shape}", given))
        return shape

    def _predict(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return self.model_.predict(self._examples(X), batch_size=self.batch_size)


class CNNClassifier(ClassifierMixin, _Estimator):
    """A network that classifies, as an estimator of scikit-learn.

    Parameters
    ----------
    model : str or function, optional
        The name of a network of ``cnnext.models``, a pattern of ``cnnext.from_pattern``, or a function of the number of
        outputs and the shape of an example, such as ``cnnext.models.lenet5``. A softmax is added where it does not end in
        one. By default a small network: two convolutions and two dense layers for images, else one hidden layer.
    image_shape : tuple of int, optional
        Of one example, (rows, columns, channels), where ``X`` is flat. By default what ``X`` has behind the first axis.
    epochs, batch_size : int
    optimizer : str or Optimizer
        By name, or an object, which is copied.
    learning_rate : float or function of the step, optional
        Instead of the optimizer's own.
    class_weight : dict of class to float, or "balanced", optional
        By what the loss of a class is multiplied; "balanced": inversely proportional to its share in ``y``.
    label_smoothing : float
        As of ``cnnext.SparseCategoricalCrossentropy``.
    augment : sequence of Augmentation
        Of ``cnnext.data``, for images; applied in training only.
    mix : Mixture, optional
        ``cnnext.data.Mixup`` or ``CutMix``: mixes the examples of a batch and their targets, in training only.
    validation_split : float
        This share of the examples, drawn at random, is kept back from the training and evaluated after every epoch.
    callbacks : sequence of Callback
        Copied for each ``fit``.
    random_state : int, RandomState or None
        Weights, data order, dropout and augmentation: an int gives the same bits each time, for any number of threads.
    num_threads : int, optional
        All there are by default; the processes of scikit-learn's ``n_jobs`` divide them.
    verbose : int
        1: a line for each epoch.

    Attributes
    ----------
    classes_ : ndarray, shape (classes,)
    model_ : Model
        Its outputs are probabilities of ``classes_``; ``model_.save(path)`` and ``model_.export_onnx(path)`` write it.
    input_shape_ : tuple of int
        Of an example, as ``model_`` takes it.
    history_ : dict of str to list of float
        Loss and accuracy of each epoch, also on the validation part; after ``fit``.
    n_epochs_ : int
        Epochs of ``fit``; a callback may have ended it early.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where ``X`` is a table whose columns have names.

    Notes
    -----
    ``X`` is (samples, features), or an array (samples, rows, columns, channels). Values are converted to float32, not
    scaled: put a scaler before it where they are far from 1. A pickled copy predicts the same; ``partial_fit`` on it begins
    with a new optimizer. There is no ``sample_weight``: the losses of cnnext weigh classes, not examples.

    Examples
    --------
    >>> digits = sklearn.datasets.load_digits()  # doctest: +SKIP
    >>> net = make_pipeline(MinMaxScaler(), CNNClassifier(image_shape=(8, 8, 1)))  # doctest: +SKIP
    >>> cross_val_score(net, digits.data, digits.target)  # doctest: +SKIP
    """

    def __init__(self, model: str | Builder | None = None, *, image_shape: Sequence[int] | None = None, epochs: int = 20,
                 batch_size: int = 32, optimizer: str | Optimizer = "adam", learning_rate: Any = None,
                 class_weight: Mapping[Any, float] | str | None = None, label_smoothing: float = 0.0,
                 augment: Sequence[Augmentation] = (), mix: Mixture | None = None, validation_split: float = 0.0,
                 callbacks: Sequence[Callback] = (), random_state: Any = None, num_threads: int | None = None,
                 verbose: int = 0):
        self.model = model
        self.image_shape = image_shape
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.augment = augment
        self.mix = mix
        self.validation_split = validation_split
        self.callbacks = callbacks
        self.random_state = random_state
        self.num_threads = num_threads
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> CNNClassifier:
        """Train a new network.

        Parameters
        ----------
        X : array-like, shape (samples, features), or ndarray, shape (samples, rows, columns, channels)
        y : array-like, shape (samples,)
            Classes: numbers or texts.

        Returns
        -------
        CNNClassifier
            Itself.

        Raises
        ------
        ValueError, TypeError
            If the data or a parameter is not what it must be.
        """
        x, y = self._examples_and_targets(X, y, reset=True)
        self._set_classes(y)
        labels = self._labels(y)
        self._set_weights(labels)
        return self._fit(x, labels)

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> CNNClassifier:
        """Train the network for one more epoch, on these examples.

        Parameters
        ----------
        X, y
            As of ``fit``.
        classes : array-like, optional
            All classes there will be; the first call, if no ``fit`` came before it, needs them.

        Returns
        -------
        CNNClassifier
            Itself.
        """
        first = not hasattr(self, "model_")
        x, y = self._examples_and_targets(X, y, reset=first)
        if first:
            if classes is None:
                raise ValueError(message("CNNClassifier", "classes", "be given in the first call of partial_fit", classes))
            self._set_classes(classes)
            if self.class_weight == "balanced":
                rule = "be a dict or None for partial_fit, which does not see all of y"
                raise ValueError(message("CNNClassifier", "class_weight", rule, self.class_weight))
            self._set_weights(np.arange(len(self.classes_)))
        return self._fit_more(x, self._labels(y), first)

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, float32, shape (samples, classes), in the order of ``classes_``."""
        return self._predict(X)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each example, shape (samples,)."""
        places = self._predict(X).argmax(axis=1)
        return self.classes_[places]

    def _set_classes(self, classes: Any) -> None:
        check_classification_targets(classes)
        self.classes_ = unique_labels(classes)

    def _labels(self, y: Any) -> np.ndarray:
        """Places of the classes in ``classes_``."""
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        strange = np.setdiff1d(y, self.classes_).tolist()
        if strange:
            raise ValueError(message("CNNClassifier", "y", f"hold only the classes {self.classes_.tolist()}", strange[0]))
        return np.searchsorted(self.classes_, y)

    def _set_weights(self, labels: np.ndarray) -> None:
        """The weight of each class."""
        self._weights = None
        if self.class_weight is not None:
            self._weights = compute_class_weight(self.class_weight, classes=self.classes_,
                                                 y=self.classes_[labels]).tolist()

    def _build(self) -> Model:
        builder = _small_network if self.model is None else self.model
        return build_classifier(builder, len(self.classes_), self.input_shape_)

    def _loss(self) -> Loss:
        return SparseCategoricalCrossentropy(label_smoothing=self.label_smoothing, class_weight=self._weights)

    def _metrics(self) -> list[str]:
        return ["accuracy"] if len(self.classes_) > 1 else []   # one column stands for two classes there


class CNNRegressor(RegressorMixin, _Estimator):
    """A network that estimates numbers, as an estimator of scikit-learn.

    Parameters
    ----------
    model
        As of ``CNNClassifier``; no softmax is added, and a network that ends in one is refused.
    loss : str or Loss
        "mean_squared_error", "mean_absolute_error", "huber", or an object.
    image_shape, epochs, batch_size, optimizer, learning_rate, augment, mix, validation_split, callbacks, random_state, \
num_threads, verbose
        As of ``CNNClassifier``.

    Attributes
    ----------
    model_, input_shape_, history_, n_epochs_, n_features_in_, feature_names_in_
        As of ``CNNClassifier``.

    Notes
    -----
    As of ``CNNClassifier``. ``y`` is not scaled either: where it is far from 1, wrap this in scikit-learn's
    ``TransformedTargetRegressor``.
    """

    def __init__(self, model: str | Builder | None = None, *, image_shape: Sequence[int] | None = None, epochs: int = 20,
                 batch_size: int = 32, optimizer: str | Optimizer = "adam", learning_rate: Any = None,
                 loss: str | Loss = "mean_squared_error", augment: Sequence[Augmentation] = (), mix: Mixture | None = None,
                 validation_split: float = 0.0, callbacks: Sequence[Callback] = (), random_state: Any = None,
                 num_threads: int | None = None, verbose: int = 0):
        self.model = model
        self.image_shape = image_shape
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.loss = loss
        self.augment = augment
        self.mix = mix
        self.validation_split = validation_split
        self.callbacks = callbacks
        self.random_state = random_state
        self.num_threads = num_threads
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> CNNRegressor:
        """Train a new network.

        Parameters
        ----------
        X
            As of ``CNNClassifier.fit``.
        y : array-like, shape (samples,) or (samples, outputs)

        Returns
        -------
        CNNRegressor
            Itself.
        """
        x, y = self._examples_and_targets(X, y, reset=True, multi_output=True, y_numeric=True)
        self._target_shape = y.shape[1:]
        return self._fit(x, _columns(y))

    def partial_fit(self, X: Any, y: Any) -> CNNRegressor:
        """Train the network for one more epoch, on these examples; as ``fit`` otherwise."""
        first = not hasattr(self, "model_")
        x, y = self._examples_and_targets(X, y, reset=first, multi_output=True, y_numeric=True)
        if first:
            self._target_shape = y.shape[1:]
        return self._fit_more(x, _columns(y), first)

    def predict(self, X: Any) -> np.ndarray:
        """Estimates, float64, of the shape that ``y`` had in ``fit``."""
        found = self._predict(X).astype(np.float64)
        return found.reshape(len(found), *self._target_shape)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output = True
        tags.target_tags.multi_output = True
        return tags

    def _build(self) -> Model:
        builder = _small_network if self.model is None else self.model
        net = build(builder, prod(self._target_shape), self.input_shape_)
        if ends_in_softmax(net):
            raise ValueError(message("CNNRegressor", "model", "not end in a softmax, whose outputs sum to 1", self.model))
        return net

    def _loss(self) -> str | Loss:
        return self.loss


def _is_images(X: Any) -> bool:
    return isinstance(X, np.ndarray) and X.ndim > 2


def _flat(X: Any) -> Any:
    """Images as rows of a table; all else as it is."""
    return X.reshape(len(X), prod(X.shape[1:])) if _is_images(X) else X


def _columns(y: np.ndarray) -> np.ndarray:
    return y.reshape(len(y), -1)


def _small_network(outputs: int, input_shape: tuple[int, ...]) -> Model:
    """Scores: for images after up to two convolutions, each followed by a pool as far as the image is large enough."""
    layers: list[Layer] = []
    if len(input_shape) == 3:
        rows, columns, _ = input_shape
        for filters in (16, 32):
            layers += [Conv2D(filters, 3, padding="same"), ReLU()]
            if min(rows, columns) >= SMALLEST_POOLED:
                layers.append(MaxPool2D(2))
                rows, columns = rows // 2, columns // 2
    if len(input_shape) > 1:
        layers.append(Flatten())
    return Sequential([*layers, Dense(64), ReLU(), Dense(outputs)], input_shape=input_shape)

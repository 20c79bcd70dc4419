"""``cnnext.sklearn``: scikit-learn's own checks, its tools around an estimator, and random numbers that stay apart."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import cnnext as cx
from cnnext.data import Mixup, RandomShift
from cnnext.training.initializers import drawing_from, generator

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from cnnext.sklearn import CNNClassifier, CNNRegressor

PATTERN = "INPUT-CONV-RELU-POOL-FC"


@pytest.fixture(scope="module")
def digits():
    """8 x 8 pixels, values in [0, 1]."""
    data = load_digits()
    return data.data[:600] / 16, data.target[:600]


def weights(estimator):
    return b"".join(w.tobytes() for w in estimator.model_.get_weights())


@parametrize_with_checks([CNNClassifier(), CNNRegressor(), CNNClassifier(label_smoothing=0.1),
                          CNNClassifier("INPUT-[FC-RELU]*2-DROPOUT-FC"), CNNRegressor(loss="huber", mix=Mixup())])
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_no_check_is_left_out():
    program = ("from sklearn.utils.estimator_checks import check_estimator as check; import cnnext as cx\n"
               "results = check(cx.sklearn.CNNClassifier()) + check(cx.sklearn.CNNRegressor())\n"
               "print(len(results), {r['status'] for r in results})")
    environment = {**os.environ, "SCIPY_ARRAY_API": "1", "PYTHONWARNINGS": "ignore"}
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    count, statuses = found.stdout.split(maxsplit=1)
    assert int(count) > 90 and statuses.strip() == "{'passed'}", found.stderr


def test_cnnext_does_not_import_scikit_learn():
    program = "import sys, cnnext as cx; cx.Adam; cx.models.lenet5(); assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "cnnext.sklearn")
    with pytest.raises(ImportError, match=r"pip install 'cnnext\[sklearn\]'"):
        import cnnext.sklearn  # noqa: F401


def test_pipeline_and_cross_validation(digits):
    net = make_pipeline(MinMaxScaler(), CNNClassifier(image_shape=(8, 8, 1), learning_rate=0.005, random_state=0))
    assert cross_val_score(net, *digits, cv=3).min() > 0.85


def test_grid_search(digits):
    grid = {"model": [None, PATTERN], "learning_rate": [1e-4, 1e-2], "image_shape": [(8, 8, 1)]}
    search = GridSearchCV(CNNClassifier(epochs=6, random_state=0), grid, cv=2, n_jobs=2).fit(*digits)
    assert search.best_params_["learning_rate"] == 1e-2 and search.best_score_ > 0.8
    assert not np.isnan(search.cv_results_["mean_test_score"]).any()


@pytest.mark.parametrize("model", [None, PATTERN, "lenet5", cx.models.lenet5, lambda classes, shape: cx.Sequential(
    [cx.Flatten(), cx.Dense(classes)], input_shape=shape)])
def test_models(digits, model):
    x, y = digits
    x = np.pad(x.reshape(-1, 8, 8, 1), ((0, 0), (2, 2), (2, 2), (0, 0)))
    flat = CNNClassifier(model, image_shape=(12, 12, 1), epochs=4, random_state=1).fit(x.reshape(len(x), -1), y)
    deep = CNNClassifier(model, epochs=4, random_state=1).fit(x, y)
    assert weights(flat) == weights(deep)
    assert flat.input_shape_ == deep.input_shape_ == (12, 12, 1) and deep.n_features_in_ == 144
    found = deep.predict_proba(x)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found, flat.predict_proba(x[..., 0]))
    np.testing.assert_array_equal(deep.model_.predict(x.astype(np.float32)), found)
    assert deep.history_["loss"][-1] < deep.history_["loss"][0] and deep.n_epochs_ == 4


def test_the_seed_decides_and_the_shared_generator_is_left_alone(digits):
    def estimator(seed, threads):
        return CNNClassifier(PATTERN, image_shape=(8, 8, 1), epochs=2, random_state=seed, num_threads=threads,
                             augment=[RandomShift(1)], mix=Mixup(0.1))

    cx.set_random_seed(3)
    before = copy.deepcopy(generator().bit_generator.state)
    first, second, third = (estimator(*of).fit(*digits) for of in ((0, 1), (0, 2), (1, 2)))
    assert weights(first) == weights(second) != weights(third)
    assert generator().bit_generator.state == before
    first.partial_fit(*digits)
    second.partial_fit(*digits)
    assert weights(first) == weights(second) and generator().bit_generator.state == before


def test_a_builder_that_seeds_reaches_its_estimator_only(digits):
    def model(classes, shape):
        cx.set_random_seed(7)
        return cx.models.lenet5(classes, (12, 12, 1)) if len(shape) == 3 else cx.from_pattern(
            "INPUT-FC", input_shape=shape, classes=classes)

    cx.set_random_seed(3)
    before = copy.deepcopy(generator().bit_generator.state)
    first, second = (CNNClassifier(model, epochs=1, random_state=seed).fit(*digits) for seed in (0, 1))
    assert weights(first) == weights(second)
    assert generator().bit_generator.state == before


def test_a_generator_of_ones_own_is_that_of_its_thread():
    shared, own = generator(), np.random.default_rng(0)
    seen = []
    with drawing_from(own):
        assert generator() is own
        thread = threading.Thread(target=lambda: seen.append(generator()))
        thread.start()
        thread.join()
    assert seen == [shared] and generator() is shared


def test_partial_fit(digits):
    x, y = digits
    net = CNNClassifier(learning_rate=0.01, random_state=0)
    with pytest.raises(ValueError, match="`classes` must be given in the first call"):
        net.partial_fit(x, y)
    for _ in range(3):
        for part in range(0, 600, 200):
            net.partial_fit(x[part : part + 200], y[part : part + 200], classes=np.arange(10))
    assert net.score(x, y) > 0.8
    with pytest.raises(ValueError, match="`y` must hold only the classes .*Received y=10"):
        net.partial_fit(x, y + 1)
    with pytest.raises(ValueError, match="`class_weight` must be a dict or None for partial_fit"):
        CNNClassifier(class_weight="balanced").partial_fit(x, y, classes=np.arange(10))


def test_partial_fit_is_one_epoch_of_fit(digits):
    x, y = digits
    fitted = CNNClassifier(epochs=1, random_state=0).fit(x, y)
    assert weights(fitted) == weights(CNNClassifier(random_state=0).partial_fit(x, y, classes=np.arange(10)))


def test_pickle_and_clone(digits):
    x, y = digits
    net = CNNClassifier(optimizer=cx.SGD(0.1, momentum=0.9), callbacks=[cx.EarlyStopping("loss")], epochs=2).fit(x, y)
    copied = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(copied.predict_proba(x), net.predict_proba(x))
    assert copied.partial_fit(x, y).score(x, y) > 0.5
    assert net.optimizer.steps == 0 and not hasattr(net.callbacks[0], "model")
    with pytest.raises(NotFittedError):
        clone(net).predict(x)


def test_texts_as_classes_and_their_weights(digits):
    x, y = digits
    names = np.where(y == 8, "eight", "other")
    kwargs = {"epochs": 4, "random_state": 0}
    plain, heavy = (CNNClassifier(class_weight=w, **kwargs).fit(x, names) for w in (None, {"eight": 50.0, "other": 1.0}))
    balanced = CNNClassifier(class_weight="balanced", **kwargs).fit(x, names)
    assert plain.classes_.tolist() == ["eight", "other"]
    eights = [(net.predict(x) == "eight").sum() for net in (plain, balanced, heavy)]
    assert eights[0] < eights[1] < eights[2]


def test_early_stopping_on_data_that_is_sorted(digits):
    x, y = digits
    order = np.argsort(y, kind="stable")
    net = CNNClassifier(epochs=200, validation_split=0.2, callbacks=[cx.EarlyStopping(patience=1)], learning_rate=0.02,
                        random_state=0).fit(x[order], y[order])
    assert net.n_epochs_ == len(net.history_["val_loss"]) < 200
    assert max(net.history_["val_accuracy"]) > 0.9


def test_regression():
    x, y = load_diabetes(return_X_y=True)
    x, y = StandardScaler().fit_transform(x), (y - y.mean()) / y.std()
    net = CNNRegressor(random_state=0).fit(x, y)
    assert net.predict(x).shape == y.shape and net.score(x, y) > 0.45
    both = CNNRegressor(random_state=0).fit(x, np.column_stack([y, -y]))
    assert both.predict(x).shape == (len(y), 2) and both.score(x, np.column_stack([y, -y])) > 0.45
    images = CNNRegressor("INPUT-CONV-RELU-FC", image_shape=(5, 2, 1), random_state=0).partial_fit(x, y)
    assert images.predict(x.reshape(-1, 5, 2, 1)).shape == y.shape


@pytest.mark.parametrize("arguments, rule", [
    ({"image_shape": (7, 9, 1)}, r"`image_shape` must have as many elements as X has features \(64\)"),
    ({"image_shape": (8, -8, 1)}, "`image_shape` must be"),
    ({"model": "lenet"}, "unknown network 'lenet'. Did you mean 'lenet5'?"),
    ({"model": "INPUT-FC]"}, "pattern"),
    ({"model": lambda classes, shape: cx.from_pattern("INPUT-FC", input_shape=shape, classes=3)},
     r"`outputs` must be one of shape \(10,\). Received outputs=\[\(3,\)\]"),
    ({"epochs": 0}, "`epochs` must be"),
    ({"validation_split": 1.0}, "`validation_split` must be"),
    ({"optimizer": "adm"}, "unknown optimizer 'adm'. Did you mean 'adam'?"),
])
def test_arguments_that_are_wrong(digits, arguments, rule):
    with pytest.raises(ValueError, match=rule):
        CNNClassifier(**arguments).fit(*digits)


def test_images_of_another_shape(digits):
    x, y = digits
    net = CNNClassifier(PATTERN, epochs=1).fit(x.reshape(-1, 8, 8, 1), y)
    with pytest.raises(ValueError, match=r"`X` must hold examples of shape \(8, 8, 1\)"):
        net.predict(x.reshape(-1, 4, 16, 1))
    with pytest.raises(ValueError, match=r"`X` must hold examples of the image_shape \(8, 8, 1\)"):
        CNNClassifier(image_shape=(8, 8, 1)).fit(x.reshape(-1, 4, 16, 1), y)
    with pytest.raises(ValueError, match="`model` must not end in a softmax"):
        CNNRegressor("INPUT-FC-SOFTMAX").fit(x, y)

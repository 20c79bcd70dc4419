"""The pattern language: what patterns stand for, and where errors point."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cnnext as cx


def build(pattern, **arguments):
    return cx.from_pattern(pattern, **{"input_shape": (32, 32, 3), "classes": 10, **arguments})


def kinds(net):
    return [type(layer).__name__ for layer in net.layers]


def test_the_readme_pattern():
    net = build("INPUT-[[CONV-RELU]*2-POOL]*3-[FC-RELU]*1-FC")
    assert kinds(net) == ["Conv2D", "ReLU", "Conv2D", "ReLU", "MaxPool2D"] * 3 + ["Flatten", "Dense", "ReLU", "Dense"]
    assert [layer.filters for layer in net.layers if isinstance(layer, cx.Conv2D)] == [32, 32, 64, 64, 128, 128]
    assert [layer.units for layer in net.layers if isinstance(layer, cx.Dense)] == [128, 10]
    assert [layer.name for layer in net.layers][:5] == ["conv_1", "relu_1", "conv_2", "relu_2", "pool_1"]
    assert net.predict(np.ones((2, 32, 32, 3), np.float32)).shape == (2, 10)


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("pool", [True, False])
def test_letters_and_options(n, pool):
    net = build("INPUT-[[CONV-RELU]*N-POOL?]*M-[FC-RELU]*K-FC", n=n, M=2, k=0, pool=pool, filters=4)
    assert kinds(net) == (["Conv2D", "ReLU"] * n + ["MaxPool2D"] * pool) * 2 + ["Flatten", "Dense"]
    assert [layer.filters for layer in net.layers if isinstance(layer, cx.Conv2D)] == [4] * n + [4 << pool] * n


def test_optional_groups_are_separate_from_pools():
    pattern = "INPUT-CONV-POOL?-[DROPOUT-FC-TANH]*2?-FC-SOFTMAX"
    assert kinds(build(pattern, optional=False)) == ["Conv2D", "MaxPool2D", "Flatten", "Dense", "Softmax"]
    assert kinds(build(pattern, pool=False, dropout=0.25))[1:5] == ["Dropout", "Flatten", "Dense", "Tanh"]


def test_names_in_lower_case_and_blanks():
    net = build(" input - [ conv - leaky_relu ] * 2 - fc ")
    assert kinds(net) == ["Conv2D", "LeakyReLU"] * 2 + ["Flatten", "Dense"]


@given(st.recursive(st.sampled_from(["CONV", "RELU", "TANH"]),
                    lambda inner: st.tuples(st.lists(inner, min_size=1, max_size=3), st.integers(0, 3)), max_leaves=6))
def test_expansion_is_that_of_the_tree(tree):
    def text(node):
        return node if isinstance(node, str) else f"[{'-'.join(map(text, node[0]))}]*{node[1]}"

    def words(node):
        return [node] if isinstance(node, str) else [w for child in node[0] for w in words(child)] * node[1]

    names = {"CONV": "Conv2D", "RELU": "ReLU", "TANH": "Tanh"}
    net = build(f"INPUT-{text(tree)}-FC", input_shape=(2, 2, 1), filters=1)
    assert kinds(net) == [names[word] for word in words(tree)] + ["Flatten", "Dense"]


@pytest.mark.parametrize(("pattern", "column", "words"), [
    ("", 0, "a layer's name"),
    ("INPUT-", 6, "a layer's name"),
    ("INPUT--FC", 6, "a layer's name"),
    ("INPUT-CON-FC", 6, "Did you mean 'CONV'"),
    ("INPUT-BN-FC", 6, "Known: CELU, CONV, DROPOUT,"),
    ("INPUT-[CONV-FC", 14, "']' here"),
    ("INPUT-CONV]-FC", 10, "a '[' for each ']'"),
    ("INPUT CONV", 6, "'-', '*', '?' or its end"),
    ("INPUT-[CONV]*-FC", 13, "a number or one letter"),
    ("INPUT-[CONV]*NM-FC", 13, "a number or one letter"),
    ("INPUT-[CONV]*-1-FC", 13, "a number or one letter"),
    ("INPUT-[CONV]*20000-FC", 13, "at most 10000 times"),
    ("INPUT-[CONV]*99999999999999999999-FC", 13, "at most 10000 times"),
    ("INPUT-[[CONV]*9999]*9999-FC", 6, "at most 10000 layers"),
    ("INPUT-[CONV]*Q-FC", 13, "a number for Q"),
    ("CONV-FC", 0, "INPUT first"),
    ("INPUT-CONV-INPUT-FC", 11, "INPUT first"),
    ("INPUT-FC-CONV-FC", 9, "CONV before the first FC"),
    ("INPUT-FC-POOL", 9, "POOL before the first FC"),
    ("INPUT-CONV", 10, "have an FC"),
    ("[" * 60, 50, "nest at most 50"),
    ("INPUT-" + "CONV-" * 100 + "?", 506, "a layer's name"),
])
def test_errors_point_at_the_character(pattern, column, words):
    with pytest.raises(ValueError) as caught:
        build(pattern)
    text, excerpt, caret = str(caught.value).split("\n")
    assert text.startswith("from_pattern: `pattern` must ")
    assert words in text and f"(character {column + 1})." in text
    pointed = caret.index("^")
    assert caret.strip() == "^"
    assert excerpt[pointed : pointed + 1] == pattern[column : column + 1]


@given(st.text(alphabet="INPUTCONVFCREL[]*?-23N ", max_size=40))
def test_any_text_builds_a_net_or_is_refused_with_a_position(text):
    try:
        net = build(text, input_shape=(4, 4, 1), filters=1, units=1)
    except ValueError as error:
        assert str(error).startswith("from_pattern: `pattern` must ") and "\n" in str(error)
    else:
        assert net.output_shape == (None, 10)


@pytest.mark.parametrize(("arguments", "error", "words"), [
    (dict(classes=0), ValueError, "from_pattern: `classes` must be at least 1"),
    (dict(filters=2.5), ValueError, "from_pattern: `filters` must be a whole number"),
    (dict(pool="no"), ValueError, "from_pattern: `pool` must be True or False"),
    (dict(n=-1), ValueError, "from_pattern: `n` must be at least 0"),
    (dict(n=1, N=2), TypeError, "`N` must be given once"),
    (dict(n=1, q=2), TypeError, "unknown argument 'q'"),
    (dict(n=1, dropout=1.5), ValueError, "dropout_1': `rate` must be"),
])
def test_bad_arguments(arguments, error, words):
    with pytest.raises(error) as caught:
        build("INPUT-[CONV]*N-DROPOUT-FC", **{"n": 1, **arguments} if "N" not in arguments else arguments)
    assert words in str(caught.value)


def test_the_pattern_is_text():
    with pytest.raises(TypeError, match="`pattern` must be text"):
        build(None)

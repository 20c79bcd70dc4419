"""``from_pattern``: a chain of layers from one line such as ``INPUT-[[CONV-RELU]*2-POOL]*3-[FC-RELU]*1-FC``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from cnnext.errors import message, unknown
from cnnext.layers.attributes import as_int, boolean
from cnnext.layers.layer import Layer
from cnnext.model import Sequential

WHERE = "from_pattern"
MAX_LAYERS = 10_000
MAX_DEPTH = 50


def from_pattern(pattern: str, *, input_shape: Sequence[int | None], classes: int, filters: int = 32, units: int = 128,
                 dropout: float = 0.5, pool: bool = True, optional: bool = True, name: str = "sequential",
                 num_threads: int | None = None, **counts: int) -> Sequential:
    """Build a network from a pattern.

    ::

        pattern  = item , { "-" , item } ;
        item     = ( layer | "[" , pattern , "]" ) , [ "*" , count ] , [ "?" ] ;
        count    = number | letter ;
        layer    = "INPUT" | "CONV" | "POOL" | "FC" | "DROPOUT" | activation ;

    Names may be written in lower case; blanks are skipped. An activation is one of cnnext's, for example ``RELU`` or
    ``SOFTMAX``. ``*count`` repeats what it follows, ``?`` marks it as optional.

    - ``INPUT`` stands first, and only there.
    - ``CONV`` is 3 x 3, stride 1, padding "same"; its filters double after each ``POOL``.
    - ``POOL`` takes the maximum of 2 x 2 pixels with stride 2.
    - ``FC`` is a ``Dense`` layer; the image is flattened before the first, and the last has ``classes`` outputs.

    Parameters
    ----------
    pattern : str
    input_shape : tuple of int
        Shape of one sample.
    classes : int
        Outputs of the last ``FC``.
    filters : int
        Of the ``CONV`` layers before the first ``POOL``.
    units : int
        Outputs of the other ``FC`` layers.
    dropout : float
        Rate of ``DROPOUT``.
    pool : bool
        Whether ``POOL?`` is there.
    optional : bool
        Whether everything else marked with ``?`` is there.
    **counts : int
        What the letters of the pattern stand for: ``n=2`` or ``N=2`` for ``*N``.

    Raises
    ------
    ValueError
        If the pattern breaks the grammar; the message points at the character.

    Examples
    --------
    >>> net = cx.from_pattern("INPUT-[[CONV-RELU]*N-POOL?]*M-[FC-RELU]*K-FC", n=2, m=3, k=1,
    ...                       input_shape=(32, 32, 3), classes=10)
    """
    if not isinstance(pattern, str):
        raise TypeError(message(WHERE, "pattern", "be text", pattern))
    tree = _Parser(pattern).parse()
    switches = {"pool": boolean().check(WHERE, "pool", pool), "optional": boolean().check(WHERE, "optional", optional)}
    tokens = _Expansion(pattern, _checked_counts(pattern, tree, counts), **switches).expand(tree)
    sizes = {key: as_int(WHERE, key, value, minimum=1)
             for key, value in (("classes", classes), ("filters", filters), ("units", units))}
    layers = _Builder(pattern, tokens, dropout=dropout, **sizes).layers()
    return Sequential(layers, input_shape=input_shape, name=name, num_threads=num_threads)


def _fail(pattern: str, position: int, rule: str) -> NoReturn:
    """Raise with the surroundings of the character and a caret below it."""
    begin = max(0, position - 50)
    excerpt = pattern[begin : position + 30].replace("\n", " ").replace("\t", " ")
    text = message(WHERE, "pattern", rule, pattern, f"character {position + 1}")
    raise ValueError(f"{text}\n    {excerpt}\n    {' ' * (position - begin)}^")


# Reading


@dataclass
class _Item:
    """A layer or a group, how often it stands there (a number or a letter), and whether it is optional."""

    position: int
    content: str | list[_Item]
    count: int | str = 1
    count_position: int = 0
    is_optional: bool = False


class _Parser:
    """Recursive descent over the grammar of ``from_pattern``: one method for each rule."""

    def __init__(self, text: str):
        self.text = text
        self.position = 0

    def parse(self) -> list[_Item]:
        items = self._pattern(depth=0)
        if self._peek():
            _fail(self.text, self.position, "have '-', '*', '?' or its end here" if self._peek() != "]" else
                  "have a '[' for each ']'")
        return items

    def _peek(self) -> str:
        """The next character that is not blank; "" at the end."""
        while self.position < len(self.text) and self.text[self.position].isspace():
            self.position += 1
        return self.text[self.position : self.position + 1]

    def _take(self, wanted: str) -> bool:
        found = self._peek() == wanted
        self.position += found
        return found

    def _pattern(self, depth: int) -> list[_Item]:
        items = [self._item(depth)]
        while self._take("-"):
            items.append(self._item(depth))
        return items

    def _item(self, depth: int) -> _Item:
        item = self._group(depth) if self._peek() == "[" else self._layer()
        if self._take("*"):
            self._peek()
            item.count_position, item.count = self.position, self._count()
        item.is_optional = self._take("?")
        return item

    def _group(self, depth: int) -> _Item:
        start = self.position
        if depth == MAX_DEPTH:
            _fail(self.text, start, f"nest at most {MAX_DEPTH} groups")
        self._take("[")
        content = self._pattern(depth + 1)
        if not self._take("]"):
            _fail(self.text, self.position, "have '-', '*', '?' or ']' here")
        return _Item(start, content)

    def _layer(self) -> _Item:
        self._peek()
        start = self.position
        word = self._match(r"[A-Za-z_]\w*", "have a layer's name or '[' here").upper()
        if word not in _layer_names():
            _fail(self.text, start, f"hold known layers only: {unknown('layer', word, _layer_names())}"[:-1])
        return _Item(start, word)

    def _count(self) -> int | str:
        start = self.position
        word = self._match(r"[0-9]+|[A-Za-z](?!\w)", "have a number or one letter after '*'").upper()
        if not word.isdigit():
            return word
        if len(word) > 9 or int(word) > MAX_LAYERS:
            _fail(self.text, start, f"repeat at most {MAX_LAYERS} times")
        return int(word)

    def _match(self, expression: str, rule: str) -> str:
        found = re.compile(expression, re.ASCII).match(self.text, self.position)
        if found is None:
            _fail(self.text, self.position, rule)
        self.position = found.end()
        return found[0]


def _layer_names() -> list[str]:
    from cnnext.layers.activation import BY_NAME

    return ["INPUT", "CONV", "POOL", "FC", "DROPOUT", *(name.upper() for name in BY_NAME)]


# Writing out repetitions and options


@dataclass(frozen=True)
class _Token:
    position: int
    word: str


def _checked_counts(pattern: str, tree: list[_Item], counts: dict[str, Any]) -> dict[str, int]:
    """The numbers of the letters, each checked; letters that the pattern does not hold are refused."""
    letters: dict[str, int] = {}
    _find_letters(tree, letters)
    given: dict[str, int] = {}
    for key, value in counts.items():
        if key.upper() not in letters:
            raise TypeError(f"{WHERE}: " + unknown("argument", key, [c.lower() for c in letters] + _ARGUMENTS))
        if key.upper() in given:
            raise TypeError(f"{WHERE}: `{key}` must be given once, in upper or in lower case.")
        given[key.upper()] = as_int(WHERE, key, value, minimum=0, maximum=MAX_LAYERS)
    for letter, position in letters.items():
        if letter not in given:
            _fail(pattern, position, f"have a number for {letter}; pass {letter.lower()}=2 or another")
    return given


_ARGUMENTS = ["input_shape", "classes", "filters", "units", "dropout", "pool", "optional", "name", "num_threads"]


def _find_letters(items: Iterable[_Item], found: dict[str, int]) -> None:
    for item in items:
        if isinstance(item.count, str):
            found.setdefault(item.count, item.count_position)
        if isinstance(item.content, list):
            _find_letters(item.content, found)


class _Expansion:
    """Turns the tree into the list of layers that it stands for."""

    def __init__(self, pattern: str, counts: dict[str, int], pool: bool, optional: bool):
        self.pattern = pattern
        self.counts = counts
        self.pool = pool
        self.optional = optional

    def expand(self, items: Iterable[_Item]) -> list[_Token]:
        tokens: list[_Token] = []
        for item in items:
            if item.is_optional and not (self.pool if item.content == "POOL" else self.optional):
                continue
            count = self.counts[item.count] if isinstance(item.count, str) else item.count
            once = [_Token(item.position, item.content)] if isinstance(item.content, str) else self.expand(item.content)
            if len(tokens) + count * len(once) > MAX_LAYERS:
                _fail(self.pattern, item.position, f"stand for at most {MAX_LAYERS} layers")
            tokens += once * count
        return tokens


# Layers


class _Builder:
    """Makes the layers of a list of tokens."""

    def __init__(self, pattern: str, tokens: list[_Token], *, classes: int, filters: int, units: int, dropout: float):
        self.pattern = pattern
        self.tokens = tokens
        self.classes = classes
        self.filters = filters
        self.units = units
        self.dropout = dropout
        self.is_flat = False
        self.numbers: dict[str, int] = {}
        self.last_fc = max((i for i, token in enumerate(tokens) if token.word == "FC"), default=-1)

    def layers(self) -> list[Layer]:
        self._check_order()
        makers: dict[str, Callable[[_Token, int], list[Layer]]] = {
            "CONV": self._conv, "POOL": self._pool, "FC": self._fc, "DROPOUT": self._dropout
        }
        result: list[Layer] = []
        for i, token in enumerate(self.tokens[1:], 1):
            result += makers.get(token.word, self._activation)(token, i)
        return result

    def _check_order(self) -> None:
        for i, token in enumerate(self.tokens):
            if (token.word == "INPUT") != (i == 0):
                _fail(self.pattern, token.position, "have INPUT first, and only there")
        if self.last_fc < 0:
            _fail(self.pattern, len(self.pattern), f"have an FC, which gives the {self.classes} classes")

    def _numbered(self, word: str) -> str:
        self.numbers[word] = self.numbers.get(word, 0) + 1
        return f"{word.lower()}_{self.numbers[word]}"

    def _need_image(self, token: _Token) -> None:
        if self.is_flat:
            _fail(self.pattern, token.position, f"have {token.word} before the first FC, which flattens the image")

    def _conv(self, token: _Token, index: int) -> list[Layer]:
        from cnnext.layers.conv2d import Conv2D

        self._need_image(token)
        return [Conv2D(self.filters, 3, padding="same", name=self._numbered("conv"))]

    def _pool(self, token: _Token, index: int) -> list[Layer]:
        from cnnext.layers.pooling import MaxPool2D

        self._need_image(token)
        self.filters *= 2
        return [MaxPool2D(2, name=self._numbered("pool"))]

    def _fc(self, token: _Token, index: int) -> list[Layer]:
        from cnnext.layers.dense import Dense
        from cnnext.layers.flatten import Flatten

        flatten: list[Layer] = [] if self.is_flat else [Flatten(name="flatten")]
        self.is_flat = True
        return [*flatten, Dense(self.classes if index == self.last_fc else self.units, name=self._numbered("fc"))]

    def _dropout(self, token: _Token, index: int) -> list[Layer]:
        from cnnext.layers.dropout import Dropout

        return [Dropout(self.dropout, name=self._numbered("dropout"))]

    def _activation(self, token: _Token, index: int) -> list[Layer]:
        from cnnext.layers.activation import BY_NAME

        name = token.word.lower()
        return [BY_NAME[name](name=self._numbered(name))]

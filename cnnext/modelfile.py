"""The native model file: one ``.safetensors`` file, weights as tensors, the graph as JSON in the header's metadata.

Layout (all integers little-endian)::

    8 bytes            length of the header
    header             JSON object: tensor name -> {"dtype", "shape", "data_offsets"}; "__metadata__" -> {str: str}
    to the end         the tensors' bytes, row-major, without gaps

The graph is the JSON object under the metadata key ``"cnnext"``, with the version of its format under ``"format"``.
Reading runs no code and trusts nothing: the header is checked here, by a scanner of its own small grammar, before
memory is taken for what it promises. Format: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from cnnext._files import atomic_write
from cnnext.errors import ModelFileError, message
from cnnext.stored import CAN_STAY, Stored, StoredFile, Tensor

__all__ = ["FORMAT", "Limits", "load", "save", "to_bytes"]

FORMAT = 1
"""Version of the graph document that this release writes, and the newest that it reads."""

_DOCUMENT_KEY = "cnnext"
_METADATA_KEY = "__metadata__"
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"), "I64": np.dtype("<i8"), "F64": np.dtype("<f8"), "F16": np.dtype("<f2"), "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"), "I8": np.dtype("i1"), "U8": np.dtype("u1"), "U16": np.dtype("<u2"), "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"), "BOOL": np.dtype("?"),
}
_MAX_NAME_BYTES = 4096
_READ_AT_ONCE_BYTES = 1 << 16   # tensors up to this size are not left in the file
_MAX_INT64 = 2**63 - 1


@dataclass(frozen=True)
class Limits:
    """What a model file may ask for; a file that asks for more is refused before memory is taken for it.

    Parameters
    ----------
    max_tensors : int
        Tensors in the file, and entries in its metadata.
    max_header_bytes : int
        Bytes of the header, the graph document included.
    max_rank : int
        Extents of one shape, at most 32 (NumPy 1.26 ends there).
    max_bytes : int
        Bytes of the whole file.
    max_document_bytes, max_document_values, max_document_depth : int
        Size of the graph document as JSON text in the header, and the number and the nesting of its values. They
        bound the memory of the parsed document, where a value of three bytes of text takes twenty times as much.

    Raises
    ------
    TypeError, ValueError
        A limit that is no int, or not positive.
    """

    max_tensors: int = 65_536
    max_header_bytes: int = 16 << 20
    max_rank: int = 8
    max_bytes: int = 8 << 30
    max_document_bytes: int = 4 << 20
    max_document_values: int = 1 << 17
    max_document_depth: int = 64

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int:
                raise TypeError(message("Limits", field.name, "be an int", value))
            if value < 1:
                raise ValueError(message("Limits", field.name, "be positive", value))
        if self.max_rank > 32:
            raise ValueError(message("Limits", "max_rank", "be at most 32", self.max_rank))


_DEFAULT_LIMITS = Limits()


def save(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], graph: Mapping[str, Any]) -> None:
    """Write a model file atomically: a failure or a crash leaves the previous file whole.

    The same tensors and graph give the same bytes. What `load` refuses with its default limits is not written,
    except that the size of the whole file is not limited.

    Parameters
    ----------
    path : path-like
        The file to write, by custom ``*.safetensors``.
    tensors : mapping of str to numpy.ndarray
        float32 or int64 arrays of any shape.
    graph : mapping
        JSON object with str keys: dicts, lists, strings, finite numbers, booleans and None. Tuples become lists.
        ``"format"`` is added; if it is there already, it must be `FORMAT`.

    Raises
    ------
    TypeError
        A dtype, a name or a value of `graph` that the file cannot hold.
    ValueError
        A name, shape or graph beyond the limits, a graph that is nested in itself or holds NaN or infinity.
    OSError
        The file cannot be written.
    """
    where = f"model file {os.fspath(path)!r}"
    payload = _checked_payload(where, tensors, graph)
    with atomic_write(path) as file:
        file.write(payload)


def to_bytes(tensors: Mapping[str, np.ndarray], graph: Mapping[str, Any]) -> bytes:
    """The bytes of the file that `save` writes; same arguments, same errors but for those of the file system."""
    return _checked_payload("model file in memory", tensors, graph)


def load(
    path_or_bytes: str | os.PathLike[str] | bytes, *, limits: Limits = _DEFAULT_LIMITS, stay: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a model file; runs no code, reads no other file, takes no more memory than `limits` and the file allow.

    Parameters
    ----------
    path_or_bytes : path-like or bytes
        The file, or its content.
    limits : Limits
        What the file may ask for.
    stay : bool
        Leave large float32 tensors in the file, which stays open, until they are wanted.

    Returns
    -------
    tensors : dict of str to numpy.ndarray, or Stored
        Writable arrays, in the order of the file, which need not be the order given to `save`.
    graph : dict
        The graph document, ``"format"`` included. Its meaning is not checked here.

    Raises
    ------
    ModelFileError
        The file cannot be opened or read, is damaged, exceeds `limits`, is a safetensors file of another program, or
        needs a newer cnnext. The message names the file, the place and the rule.
    TypeError
        `path_or_bytes` is neither a path nor bytes.
    """
    with _open(path_or_bytes) as source:
        if source.size > limits.max_bytes:
            source.fail("size", f"be at most {limits.max_bytes} bytes (limits.max_bytes)", source.size)
        entries, graph = _read_header(source, limits)
        if not (stay and CAN_STAY and sys.byteorder == "little"):
            return {name: _read_tensor(source, name, entry) for name, entry in entries.items()}, graph
        data_begin, file = source.file.tell(), _kept_open(path_or_bytes, source)
        return {name: _stored(file, data_begin, entry) for name, entry in entries.items()}, graph


def _kept_open(path_or_bytes: str | os.PathLike[str] | bytes, source: _Source) -> StoredFile:
    own = path_or_bytes if isinstance(path_or_bytes, bytes) else os.dup(source.file.fileno())
    return StoredFile(own, source.where)


def _stored(file: StoredFile, data_begin: int, entry: _Entry) -> Tensor:
    array = Stored(file, data_begin + entry.begin, entry.shape, _DTYPES[entry.dtype])
    return array if entry.dtype == "F32" and array.nbytes > _READ_AT_ONCE_BYTES else array.read()


# Writing


def _checked_payload(where: str, tensors: Mapping[str, np.ndarray], graph: Mapping[str, Any]) -> bytes:
    from safetensors.numpy import save as to_payload  # only writing needs it

    arrays = {_checked_name(where, name): _checked_array(where, name, array) for name, array in tensors.items()}
    payload = to_payload(arrays, metadata={_DOCUMENT_KEY: _document_text(where, graph)})
    # Read the own header back: no file that `load` would refuse ever replaces a good one.
    source = _Source(io.BytesIO(payload), len(payload), where)
    _read_header(source, _DEFAULT_LIMITS)
    return payload


def _checked_name(where: str, name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(message(where, "name", "be a str", name, "name of a tensor"))
    if name == _METADATA_KEY:
        raise ValueError(message(where, "name", "not be the key that safetensors reserves", name, "name of a tensor"))
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(message(where, "name", "be valid Unicode", name, "name of a tensor")) from None
    return name


def _checked_array(where: str, name: str, array: object) -> np.ndarray:
    if not isinstance(array, np.ndarray):
        raise TypeError(message(where, "tensor", "be a numpy.ndarray", array, f"tensor {name!r}"))
    for dtype in _DTYPES.values():
        if array.dtype == dtype.newbyteorder("=") or array.dtype == dtype.newbyteorder("S"):
            return np.asarray(array, dtype=dtype, order="C")  # not ascontiguousarray: it makes scalars 1-d
    raise TypeError(message(where, "dtype", "be that of real numbers", array.dtype, f"tensor {name!r}"))


def _document_text(where: str, graph: object) -> str:
    """The graph as ASCII JSON text with its format version."""
    if not isinstance(graph, Mapping):
        raise TypeError(message(where, "graph", "be a dict", graph))
    document = {"format": FORMAT, **graph}
    if type(document["format"]) is not int or document["format"] != FORMAT:
        raise ValueError(message(where, "graph['format']", f"be {FORMAT}, or left out", document["format"]))
    try:
        _check_keys(where, document)
        return json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    except TypeError as error:
        raise TypeError(f"{where}: `graph` must hold JSON values only. {error}.") from error
    except RecursionError as error:
        raise ValueError(f"{where}: `graph` must not be nested in itself or deeper than the limits.") from error
    except ValueError as error:  # json's: NaN, infinity, a container inside itself
        raise ValueError(f"{where}: `graph` must hold finite numbers and no cycle. {error}.") from error


def _check_keys(where: str, value: object) -> None:
    """Refuse keys other than strings: json would turn them into strings, and the graph read back would differ."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(message(where, "key", "be a str", key, "in the graph"))
    if isinstance(value, (Mapping, list, tuple)):
        for child in value.values() if isinstance(value, Mapping) else value:
            _check_keys(where, child)


# Reading: the file


@dataclass(frozen=True)
class _Source:
    """An open model file of known size, and the name under which errors speak of it."""

    file: BinaryIO
    size: int
    where: str

    def fail(self, argument: str, rule: str, value: object, context: str = "") -> NoReturn:
        raise ModelFileError(message(self.where, argument, rule, value, context))

    def read_into(self, buffer: memoryview, what: str) -> None:
        """Fill `buffer` with the next bytes of the file."""
        try:
            count = self.file.readinto(buffer)  # type: ignore[attr-defined]
        except OSError as error:
            raise ModelFileError(f"{self.where}: {what} cannot be read: {error.strerror or error}.") from error
        if count != len(buffer):
            self.fail("size", f"hold {len(buffer)} more bytes: {what}", count, "the file changed while it was read")


@contextlib.contextmanager
def _open(path_or_bytes: str | os.PathLike[str] | bytes) -> Iterator[_Source]:
    if isinstance(path_or_bytes, bytes):
        size = len(path_or_bytes)
        yield _Source(io.BytesIO(path_or_bytes), size, f"model file of {size} bytes in memory")
        return
    try:
        path = os.fspath(path_or_bytes)
    except TypeError:
        raise TypeError(message("load", "path_or_bytes", "be a path or bytes", path_or_bytes)) from None
    where = f"model file {path!r}"
    try:
        file = open(path, "rb", opener=_open_without_waiting)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise ModelFileError(f"{where} cannot be opened: {getattr(error, 'strerror', None) or error}.") from error
    with file:
        status = os.fstat(file.fileno())
        source = _Source(file, status.st_size, where)
        if not stat.S_ISREG(status.st_mode):
            source.fail("path", "name a regular file", path)
        yield source


def _open_without_waiting(path: str, flags: int) -> int:
    """An opener that does not wait for a writer where `path` names a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


# Reading: the header


class _Entry(NamedTuple):
    """What the header says of one tensor; `begin` and `end` count from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _read_header(source: _Source, limits: Limits) -> tuple[dict[str, _Entry], dict[str, Any]]:
    """Read and check all that comes before the data; the file stands at the first tensor's byte afterwards."""
    header = _header_bytes(source, limits)
    data_bytes = source.size - 8 - len(header)
    entries, metadata, text = _HeaderScanner(source, header, limits).scan()
    if text is None:
        source.fail(_METADATA_KEY, f"hold the graph under the key {_DOCUMENT_KEY!r}", sorted(metadata),
                    "this is a safetensors file, but no cnnext model: it has weights and no graph")
    del header  # of up to limits.max_header_bytes, before the document takes its memory
    graph = _parse_document(source, text, limits)
    return _checked_layout(source, entries, data_bytes), graph


def _header_bytes(source: _Source, limits: Limits) -> bytes:
    if source.size < 10:
        source.fail("size", "be at least 10 bytes, a length and an empty header", source.size)
    prefix = bytearray(8)
    source.read_into(memoryview(prefix), "the length of the header")
    length = int.from_bytes(prefix, "little")
    if length > source.size - 8:
        source.fail("header length", "lie within the file", length, f"file of {source.size} bytes")
    if length > limits.max_header_bytes:
        source.fail("header length", f"be at most {limits.max_header_bytes} bytes (limits.max_header_bytes)", length)
    header = bytearray(length)
    source.read_into(memoryview(header), "the header")
    return bytes(header)


_BLANKS = re.compile(rb"[ \t\n\r]*")
# The rest of a string up to its quote, 256 escapes at a time: the pattern's memory grows with the repetitions.
_STRING_PART = re.compile(rb'[^"\\]*(?:\\.[^"\\]*){0,256}', re.DOTALL)
# 19 digits are enough for 2**63 - 1; int() of unbounded digits takes quadratic time.
_NATURAL = re.compile(rb"(?:0|[1-9][0-9]{0,18})(?![0-9.eE])")
# An entry as the package safetensors writes it; the number of extents is bounded, for the pattern's memory.
_NUMBER = rb"(?:0|[1-9][0-9]{0,18})"
_USUAL_ENTRY = re.compile(rb'\{"dtype":"([A-Z0-9_]{1,16})","shape":\[((?:%b(?:,%b){0,31})?)\],"data_offsets":\[(%b),(%b)\]\}'
                          % ((_NUMBER,) * 4))


class _HeaderScanner:
    """Reads the header by its own grammar, so that nothing larger than one tensor's entry is ever built unchecked.

    A general JSON parser would first build everything that the text describes, twenty times the text for ``[[],[],``.
    """

    def __init__(self, source: _Source, header: bytes, limits: Limits) -> None:
        self.source = source
        self.header = header
        self.limits = limits
        self.position = 0
        self._metadata: set[str] = set()
        self._document: str | None = None

    def scan(self) -> tuple[dict[str, _Entry], set[str], str | None]:
        """Return the tensors' entries, the keys of the metadata, and the graph document's text if there is one."""
        entries: dict[str, _Entry] = {}
        has_metadata = False
        if not self.header.startswith(b"{"):
            self._fail("start with '{'")
        for name in self._keys():
            if name in entries or (name == _METADATA_KEY and has_metadata):
                self._fail("name every tensor once", name)
            if name == _METADATA_KEY:
                has_metadata = True
                self._scan_metadata()
                continue
            if len(entries) == self.limits.max_tensors:
                self._fail(f"list at most {self.limits.max_tensors} tensors (limits.max_tensors)", name)
            entries[name] = self._entry(name)
        self._skip_blanks()
        if self.position != len(self.header):
            self._fail("end after its closing '}'")
        return entries, self._metadata, self._document

    def _fail(self, rule: str, value: object = None) -> NoReturn:
        shown = self.header[self.position : self.position + 20] if value is None else value
        self.source.fail("header", rule, shown, f"at byte {8 + self.position} of the file")

    def _skip_blanks(self) -> None:
        found = _BLANKS.match(self.header, self.position)
        assert found is not None  # the pattern matches the empty string
        self.position = found.end()

    def _accept(self, character: bytes) -> bool:
        if not self.header.startswith(character, self.position):
            self._skip_blanks()
            if not self.header.startswith(character, self.position):
                return False
        self.position += 1
        return True

    def _expect(self, character: bytes) -> None:
        if not self._accept(character):
            self._fail(f"have {character.decode()!r} here")

    def _keys(self) -> Iterator[str]:
        """Walk an object: yield each key with the scanner at its value, which the caller takes."""
        self._expect(b"{")
        if self._accept(b"}"):
            return
        while True:
            key = self._string(_MAX_NAME_BYTES)
            self._expect(b":")
            yield key
            if self._accept(b"}"):
                return
            self._expect(b",")

    def _string(self, max_bytes: int) -> str:
        """Take a string of at most `max_bytes` bytes as they stand in the header."""
        self._expect(b'"')
        start = stop = self.position
        while not self.header.startswith(b'"', stop):
            found = _STRING_PART.match(self.header, stop, start + max_bytes)
            if found is None or found.end() == stop:
                self._fail(f"hold strings that end, within {max_bytes} bytes here")
            stop = found.end()
        raw = self.header[start - 1 : stop + 1]
        try:
            text = json.loads(raw.decode("utf-8"))
            text.encode("utf-8")  # refuses what \ud800 without its partner gives
        except ValueError:
            self._fail("hold valid UTF-8 JSON strings", raw[:50])
        self.position = stop + 1
        assert isinstance(text, str)
        return text

    def _natural(self) -> int:
        self._skip_blanks()
        found = _NATURAL.match(self.header, self.position)
        if found is None:
            self._fail("have a non-negative integer below 2**63 here")
        value = int(found[0])
        if value > _MAX_INT64:
            self._fail("have a non-negative integer below 2**63 here", value)
        self.position = found.end()
        return value

    def _naturals(self, max_length: int) -> tuple[int, ...]:
        """Take a list of at most `max_length` non-negative integers."""
        self._expect(b"[")
        if self._accept(b"]"):
            return ()
        values = [self._natural()]
        while not self._accept(b"]"):
            self._expect(b",")
            if len(values) == max_length:
                self._fail(f"have at most {max_length} integers in this list")
            values.append(self._natural())
        return tuple(values)

    def _entry(self, name: str) -> _Entry:
        usual = _USUAL_ENTRY.match(self.header, self.position)
        if usual is not None:   # a fifth of the time; what is written otherwise, or breaks a rule, is walked
            shape = tuple(map(int, usual[2].split(b","))) if usual[2] else ()
            entry = _Entry(usual[1].decode(), shape, int(usual[3]), int(usual[4]))
            if len(shape) <= self.limits.max_rank and max(*shape, entry.begin, entry.end) <= _MAX_INT64:
                self.position = usual.end()
                return entry
        found: dict[str, Any] = {}
        for key in self._keys():
            if key in found:
                self._fail(f"state `{key}` once per tensor", name)
            if key == "dtype":
                found[key] = self._string(16)
            elif key == "shape":
                found[key] = self._naturals(self.limits.max_rank)
            elif key == "data_offsets":
                found[key] = self._naturals(2)
            else:
                self._fail("describe a tensor by `dtype`, `shape` and `data_offsets` only", key)
        if len(found) != 3 or len(found["data_offsets"]) != 2:
            self._fail("describe a tensor by `dtype`, `shape` and two `data_offsets`", name)
        return _Entry(found["dtype"], found["shape"], *found["data_offsets"])

    def _scan_metadata(self) -> None:
        for key in self._keys():
            if key in self._metadata:
                self._fail("have every key of the metadata once", key)
            if len(self._metadata) == self.limits.max_tensors:
                self._fail(f"have at most {self.limits.max_tensors} keys of metadata (limits.max_tensors)", key)
            self._metadata.add(key)
            text = self._string(self.limits.max_document_bytes)
            if key == _DOCUMENT_KEY:
                self._document = text


def _checked_layout(source: _Source, entries: dict[str, _Entry], data_bytes: int) -> dict[str, _Entry]:
    """Check that the tensors cover the data exactly; return them in the order of the data."""
    position = 0
    ordered = sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end))
    for name, entry in ordered:
        context = f"tensor {name!r}"
        if entry.dtype not in _DTYPES:
            source.fail("dtype", f"be one of {', '.join(_DTYPES)}", entry.dtype, context)
        # Extents of 0 are left out: NumPy refuses (0, 2**62, 2**62) too.
        least_bytes = math.prod(extent for extent in entry.shape if extent) * _DTYPES[entry.dtype].itemsize
        if least_bytes > _MAX_INT64:
            source.fail("shape", "have a size below 2**63 bytes", entry.shape, context)
        offsets = [entry.begin, entry.end]
        if not entry.begin <= entry.end <= data_bytes:
            source.fail("data_offsets", f"be ordered and lie within the {data_bytes} bytes of data", offsets, context)
        if entry.begin != position:
            source.fail("data_offsets", f"begin at {position}, where the tensor before ends", offsets, context)
        size = 0 if 0 in entry.shape else least_bytes
        if entry.end - entry.begin != size:
            source.fail("data_offsets", f"span the {size} bytes of shape {entry.shape}", offsets, context)
        position = entry.end
    if position != data_bytes:
        source.fail("data", f"end with the last tensor, after {position} bytes", data_bytes)
    return dict(ordered)


def _read_tensor(source: _Source, name: str, entry: _Entry) -> np.ndarray:
    """Read the next tensor of the file into an array of its own."""
    dtype = _DTYPES[entry.dtype]
    try:
        array = np.empty(entry.shape, dtype)
    except MemoryError as error:
        raise ModelFileError(
            message(source.where, "shape", "fit in memory", entry.shape, f"tensor {name!r}")
        ) from error
    if array.size:
        source.read_into(array.reshape(-1).view(np.uint8).data, f"tensor {name!r}")
    return array.astype(dtype.newbyteorder("="), copy=False)


# Reading: the graph document


def _parse_document(source: _Source, text: str, limits: Limits) -> dict[str, Any]:
    where = "the graph document in the header"
    _check_structure(source, text, limits)
    try:
        document = json.loads(
            text, object_pairs_hook=_unique_keys, parse_int=_bounded_int, parse_float=_finite, parse_constant=_finite
        )
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{source.where}: {where} must be valid JSON: {error}.") from error
    if not isinstance(document, dict):
        source.fail("graph", "be a JSON object", document, where)
    version = document.get("format")
    if type(version) is not int or version < 1:
        source.fail("format", "be a positive integer", version, where)
    if version > FORMAT:
        source.fail("format", f"be at most {FORMAT} for this release; upgrade cnnext to read this file", version, where)
    return document


def _check_structure(source: _Source, text: str, limits: Limits) -> None:
    """Bound the number and the nesting of the values before the parser builds them."""
    if not text.isascii():  # one character beyond the BMP would make every character of the text four bytes
        source.fail("graph", "be ASCII text, with \\u escapes for the rest", text)
    # With escapes gone, each quote opens or closes a string. In valid JSON backslashes stand only in strings, where
    # a run of them begins with an escape, so that replacing from the left removes exactly the escapes.
    bare = text.replace("\\\\", "").replace('\\"', "")
    if bare.count('"') > 4 * limits.max_document_values:  # a value has two quotes, and its key two more
        source.fail("graph", f"hold at most {limits.max_document_values} values (limits.max_document_values)", text)
    structure = "".join(bare.split('"')[::2])
    values = structure.count(",") + structure.count("[") + structure.count("{")
    if values > limits.max_document_values:
        source.fail("graph", f"hold at most {limits.max_document_values} values (limits.max_document_values)", values)
    depth = 0
    for bracket in re.finditer(r"[\[\]{}]", structure):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > limits.max_document_depth:
            source.fail("graph", f"nest at most {limits.max_document_depth} deep (limits.max_document_depth)", depth)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has a key twice")
    return result


def _bounded_int(digits: str) -> int:
    if len(digits) > 20:  # int() of unbounded digits takes quadratic time
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"a number that is not finite: {digits[:20]}")
    return value

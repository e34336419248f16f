"""What crosses between the grader and the student's process.

A message is a mark, a length and that many bytes. Requests are pickled: the student's process trusts
the grader. Answers are JSON and the bytes of arrays, and reading them runs nothing: numbers, texts,
lists, tuples, dicts and arrays come back as they were, anything else as a ``Foreign`` of its name.
"""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np

MARK = b"mdif"
MOST_BYTES = 64 << 20  # of one answer
DTYPES = {
    np.dtype(kind).name: np.dtype(kind)
    for kind in (
        *(bool, "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128", jnp.bfloat16),
    )
}


class Malformed(Exception):
    """Bytes that are no message."""


class TooLarge(Exception):
    """More than MOST_BYTES."""


class Foreign:
    """Stands for an object that does not cross. Its class has the name of the object's own."""


def foreign(name: object) -> Foreign:
    """A ``Foreign`` that is called like the class of the object it stands for."""
    name = str(name)[:80]
    return type(name if name.isidentifier() else "object", (Foreign,), {})()


def write(file, data: bytes) -> None:
    """A whole message, to an unbuffered file. OSError if nobody reads it."""
    rest = memoryview(MARK + len(data).to_bytes(8, "little") + data)
    while rest:
        rest = rest[file.write(rest) :]


def read(file, most: int | None = MOST_BYTES) -> bytes:
    """The next message. EOFError at the end, Malformed if it is none or has more than ``most`` bytes."""
    mark, size = _exactly(file, len(MARK)), int.from_bytes(_exactly(file, 8), "little")
    if mark != MARK or (most is not None and size > most):
        raise Malformed
    return _exactly(file, size)


def _exactly(file, size: int) -> bytes:
    parts = []
    while size:
        part = file.read(min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def dump(value: object) -> bytes:
    """An answer as bytes. TooLarge, or RecursionError for a list that holds itself."""
    arrays = []
    text = json.dumps(_plain(value, arrays)).encode()
    if len(text) + sum(array.nbytes for array in arrays) + 8 > MOST_BYTES:
        raise TooLarge
    return b"".join([len(text).to_bytes(8, "little"), text, *(a.tobytes() for a in arrays)])


def _plain(value: object, arrays: list) -> object:
    """For JSON: itself, or a list of what it is and its parts. Arrays are put into ``arrays``."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, *(_plain(part, arrays) for part in value)]
    if isinstance(value, dict):
        return ["dict", *([_plain(part, arrays) for part in pair] for pair in value.items())]
    if not hasattr(value, "__array__") or isinstance(value, type):
        return ["object", type(value).__name__]
    is_jax = isinstance(value, jax.Array)
    if is_jax and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return ["key", str(jax.random.key_impl(value)), _plain(jax.random.key_data(value), arrays)]
    array = np.asarray(value)
    if array.dtype == object:  # NumPy's way to hold a list
        return _plain(array.tolist(), arrays)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.name not in DTYPES:
        return ["object", type(value).__name__]
    arrays.append(array)
    return ["jax" if is_jax else "array", array.dtype.name, array.shape]


def load(data: bytes) -> object:
    """The answer in these bytes. Malformed if there is none."""
    try:
        end = 8 + int.from_bytes(data[:8], "little")
        return _value(json.loads(data[8:end]), _Arrays(data, end))
    except Exception:  # whatever it was: a student's process may send anything
        raise Malformed from None


class _Arrays:
    """Arrays, one after the other in the bytes of an answer."""

    def __init__(self, data: bytes, place: int):
        self.data, self.place = data, place

    def take(self, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        if any(type(size) is not int or size < 0 for size in shape):
            raise Malformed
        begin, self.place = self.place, self.place + dtype.itemsize * math.prod(shape)
        return np.ndarray(shape, dtype, self.data[begin : self.place]).copy()


def _value(plain: object, arrays: _Arrays) -> object:
    if not isinstance(plain, list):
        return plain
    kind, *parts = plain
    if kind in ("array", "jax"):
        array = arrays.take(DTYPES[parts[0]], tuple(parts[1]))
        return jnp.asarray(array) if kind == "jax" else array
    if kind == "key":
        return jax.random.wrap_key_data(_value(parts[1], arrays), impl=parts[0])
    if kind == "object":
        return foreign(parts[0])
    if kind == "dict":
        return {_value(key, arrays): _value(part, arrays) for key, part in parts}
    return {"list": list, "tuple": tuple}[kind](_value(part, arrays) for part in parts)

"""How an operation that a taught module writes out gets its faster twins."""

import inspect
from collections.abc import Callable
from functools import wraps


def faster_by(choose: Callable[..., Callable | None]) -> Callable[[Callable], Callable]:
    """A decorator: the operation that a function writes out, computed by the twin for the occasion.

    ``choose`` is given all arguments in order, whenever a program is traced. It answers with a
    function of the same, or with None where nothing is faster than what is written. What is written
    is kept as ``operation.reference``; tests and benchmarks hold the twins to it. Without the
    decorator the operation is the same, and slower.
    """

    def decorate(reference: Callable) -> Callable:
        signature = inspect.signature(reference)

        @wraps(reference)
        def operation(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return (choose(*bound.args) or reference)(*bound.args)

        operation.reference = reference
        return operation

    return decorate

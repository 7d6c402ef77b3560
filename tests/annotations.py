"""What checks the library's annotations in the tests: beartype, once for each definition."""

from collections.abc import Callable
from typing import Any

from beartype import beartype

_checks: dict[tuple[Any, ...], Callable[..., Any]] = {}


def checked(stub: Callable[..., Any]) -> Callable[..., Any]:
    """What calls as `stub` does and raises where an argument or the result is not as annotated.

    jaxtyping gives stubs, which have the arguments and annotations of a function and none of its work. A function that
    is defined within another is given anew at each call of that one: to compile its checks each time would take a fifth
    of the time in which a network is traced.
    """
    # By their text, as an array's annotation is another class each time that it is evaluated.
    key = stub.__module__, stub.__qualname__, stub.__code__, str(stub.__annotations__)
    if key not in _checks:
        _checks[key] = beartype(stub)
    return _checks[key]

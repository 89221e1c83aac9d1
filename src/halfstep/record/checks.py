"""Whether a value of JSON is what a type says: the types that a record's numbers have, and those of Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

#: a count or a size is smaller than this
_MOST = 2**63

Check = Callable[[object], bool]


def _whole(value: object) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _integer(value: object) -> bool:
    return type(value) is int and -_MOST < value < _MOST


def _amount(value: object) -> bool:
    return (type(value) is float and 0 <= value < math.inf) or _whole(value)


def _figure(value: object) -> bool:
    if type(value) is float:
        return math.isfinite(value)
    return _integer(value) or value in ("nan", "inf", "-inf")


#: a count or a number of bytes
Whole = Annotated[int, _whole]
#: a number without a fraction, of either sign
Integer = Annotated[int, _integer]
#: a size or duration: finite and not negative
Amount = Annotated[float, _amount]
#: any number, as :func:`halfstep.record.events.plain` writes it
Figure = Annotated[float | str, _figure]


def check_of(hint: Any) -> Check:
    """The function that says whether a value has the type ``hint``."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return cast(Check, inner[1])
    if origin in (Union, UnionType):
        (check,) = (check_of(part) for part in inner if part is not NoneType)
        return lambda value: value is None or check(value)
    if origin is Literal:
        return lambda value: value in inner
    if origin is list:
        every = check_of(inner[0])
        return lambda value: isinstance(value, list) and all(map(every, value))
    if origin is dict:
        each = check_of(inner[1])
        return lambda value: isinstance(value, dict) and all(map(each, value.values()))
    if is_typeddict(hint):
        checks = {name: check_of(part) for name, part in hints_of(hint).items()}
        needed = hint.__required_keys__
        return lambda value: (
            isinstance(value, dict)
            and needed <= value.keys()
            and all(check(value[name]) for name, check in checks.items() if name in value)
        )
    return lambda value: isinstance(value, hint)


def unchecked(hint: Any) -> frozenset[type]:
    """The classes whose values always have the type ``hint``, so that they need no check."""
    union = get_origin(hint) in (Union, UnionType)
    return frozenset({str, bool, NoneType}.intersection(get_args(hint) if union else (hint,)))


def hints_of(kind: Any) -> Mapping[str, Any]:
    """The types of a TypedDict's fields, by name."""
    return get_type_hints(kind, include_extras=True)

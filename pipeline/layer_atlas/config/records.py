"""Frozen dataclasses from plain data and back, for config, bundles and manifest alike.

`build(Recipe, {...})` checks every key and type on the way and names the exact place of a mistake;
`plain(recipe)` is its inverse and gives what JSON can hold.
"""

import contextlib
import dataclasses
import hashlib
import json
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from layer_atlas.errors import UserError, unknown

T = TypeVar("T")

LARGEST_NUMBER = 3.4e38
"""What fp32 holds, in which all is computed."""


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The values of a JSON object, from wherever it came.

    Raises:
        ValueError: it is none.
    """
    try:
        values = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError(f"it holds {type(values).__name__}, not an object")
    return values


def digest(value: object) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def plain(value: Any) -> Any:
    """Turn records, mappings and sequences into dicts and lists that JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, range):
        step = "" if value.step == 1 else f":{value.step}"
        return f"{value.start}:{value.stop}{step}"
    return value


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Make a record of class `cls` from plain values, checking names and types.

    Args:
        cls: a frozen dataclass; dataclasses, unions, tuples, dicts and literals are followed.
        values: what JSON or YAML gave.
        where: dotted place of `values` in the config, for messages.
    Raises:
        UserError: an unknown or missing key, or a value of the wrong type.
    """
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise unknown("config key", _join(where, key), [_join(where, name) for name in fields])
    kwargs: dict[str, Any] = {}
    for name, field in fields.items():
        if name in values:
            kwargs[name] = _convert(hints[name], values[name], _join(where, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"{_join(where, name)} is missing and has no default.")
    try:
        return cls(**kwargs)
    except ValueError as error:
        raise UserError(f"{where + ': ' if where else ''}{error}") from error


def choice_name(cls: type) -> str:
    """The value of a choice's `name` field, by which a config picks it (`fourier`, `adam`)."""
    return str(next(f.default for f in dataclasses.fields(cls) if f.name == "name"))


def _join(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if hint is Any:
        return _convert_any(value, where)
    if origin in (Union, types.UnionType):
        return _convert_union(get_args(hint), value, where)
    if origin is Literal:
        if value not in get_args(hint):
            raise unknown(where, value, [str(choice) for choice in get_args(hint)])
        return value
    if origin is tuple:
        return _convert_tuple(get_args(hint), value, where)
    if hint is range:
        return _convert_range(value, where)
    if origin is dict or origin is Mapping:
        if not isinstance(value, Mapping):
            raise _wrong_type(where, value, "a mapping")
        return {str(k): _convert(get_args(hint)[1], v, f"{where}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise _wrong_type(where, value, "a mapping")
        return build(hint, value, where)  # type: ignore[arg-type]
    return _convert_scalar(hint, value, where)


def _convert_union(options: Sequence[Any], value: Any, where: str) -> Any:
    records = [option for option in options if dataclasses.is_dataclass(option)]
    if records and isinstance(value, Mapping):
        return build(_chosen(records, value, where), value, where)
    errors = []
    for option in options:
        try:
            return _convert(option, value, where)
        except UserError as error:
            errors.append(error)
    # A mistake inside a list or mapping is told at its own place.
    inner = [e for e in errors if str(e).startswith((f"{where}[", f"{where}."))]
    expected = " or ".join(dict.fromkeys(_type_name(option) for option in options))
    raise inner[0] if inner else _wrong_type(where, value, expected)


def _chosen(records: Sequence[Any], value: Mapping[str, Any], where: str) -> Any:
    """The record of a family whose default `name` is the one that the value names."""
    if len(records) == 1:
        return records[0]
    by_name = {choice_name(record): record for record in records}
    name = value.get("name")
    if not isinstance(name, str) or name not in by_name:
        raise unknown(f"{where}.name", name, by_name)
    return by_name[name]


def _convert_tuple(items: Sequence[Any], value: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _wrong_type(where, value, "a list")
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(_convert(items[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if len(items) != len(value):
        raise _wrong_type(where, value, f"a list of {len(items)}")
    pairs = enumerate(zip(items, value, strict=True))
    return tuple(_convert(hint, v, f"{where}[{i}]") for i, (hint, v) in pairs)


def _convert_range(value: Any, where: str) -> range:
    parts = value.split(":") if isinstance(value, str) else []
    if len(parts) in (2, 3):
        with contextlib.suppress(ValueError):
            return range(*map(int, parts))
    raise _wrong_type(where, value, _type_name(range))


def _convert_any(value: Any, where: str) -> Any:
    """Whatever JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _convert_any(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_convert_any(item, f"{where}[{i}]") for i, item in enumerate(value)]
    return None if value is None else _convert_scalar(_kind(value), value, where)


def _kind(value: Any) -> type:
    return next((kind for kind in (bool, int, float) if isinstance(value, kind)), str)


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and _kind(value) is int:
        value = float(_convert_scalar(int, value, where))
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise _wrong_type(where, value, _type_name(hint))
    if hint is int and not -(2**63) <= value < 2**63:
        raise _wrong_type(where, value, "a whole number of 64 bits")
    if hint is float and not abs(value) <= LARGEST_NUMBER:
        raise _wrong_type(where, value, f"a number of at most {LARGEST_NUMBER:g}")
    return value


def _type_name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    names |= {type(None): "null", range: "a range such as '0:64'"}
    if get_origin(hint) is Literal:
        return " or ".join(repr(choice) for choice in get_args(hint))
    return names.get(hint) or ("a list" if get_origin(hint) is tuple else "a mapping")


def _wrong_type(where: str, value: Any, expected: str) -> UserError:
    return UserError(f"{where} must be {expected}, not {value!r}.")

"""Turning plain dictionaries (YAML, JSON, ``key=value``) into frozen dataclasses, strictly.

An unknown key is an error that names the nearest valid one; a value of the wrong kind is an error that names
the key. The dataclasses themselves live beside what they configure.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from dinov2_core.errors import ConfigError, nearest

T = TypeVar("T")


def build(kind: type[T], values: Mapping[str, Any] | None, *, where: str = "") -> T:
    """Build the frozen dataclass ``kind`` from ``values``; nested dataclasses and tuples of them included.

    Raises:
        ConfigError: unknown key (with the nearest valid name), missing key, or a value of the wrong type.
    """
    values = dict(values or {})
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind) if f.init]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise ConfigError(
                f"unknown setting '{key}'{nearest(key, names)}",
                where=where or kind.__name__,
                todo=f"valid settings: {', '.join(names)}",
            )
    made = {k: _convert(hints[k], v, f"{where or kind.__name__}.{k}") for k, v in values.items()}
    try:
        return kind(**made)
    except TypeError as error:
        raise ConfigError(str(error).replace("__init__() ", ""), where=where or kind.__name__) from error
    except ValueError as error:
        raise ConfigError(str(error), where=where or kind.__name__) from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, where)
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(f"{value!r} is not one of {', '.join(map(repr, args))}", where=where)
        return value
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        return build(hint, _mapping(value, where), where=where)  # type: ignore[arg-type]
    if origin is tuple:
        return _convert_tuple(args, value, where)
    if hint in (dict, Mapping) or origin in (dict, Mapping):
        inner = args[1] if len(args) == 2 else Any
        return {str(k): _convert(inner, v, f"{where}.{k}") for k, v in _mapping(value, where).items()}
    return _convert_scalar(hint, value, where)


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    problems = []
    for option in options:
        if option is not type(None):
            try:
                return _convert(option, value, where)
            except ConfigError as error:
                problems.append(error)
    raise problems[0]


def _convert_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise ConfigError(f"expected a list, got {value!r}", where=where)
    items = list(value)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(items))
    if len(items) != len(args):
        raise ConfigError(f"expected {len(args)} values, got {len(items)}", where=where)
    return tuple(_convert(args[i], v, f"{where}[{i}]") for i, v in enumerate(items))


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        # YAML 1.1 reads "1e-4" as text.
        with contextlib.suppress(ValueError):
            return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"expected {getattr(hint, '__name__', hint)}, got {value!r}", where=where)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"expected a mapping, got {value!r}", where=where)
    return value


def to_plain(value: Any) -> Any:
    """Dataclasses, tuples and mappings as JSON-ready dictionaries and lists, keys sorted."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(value[k]) for k in sorted(value, key=str)}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    return value


def canonical_json(value: Any) -> str:
    """One text for equal values: sorted keys, no spaces."""
    return json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """sha256 (hex) of :func:`canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()

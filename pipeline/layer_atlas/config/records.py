"""Records: frozen dataclasses that own their names, bounds, descriptions and sources.

A field is declared with `setting`, which takes its default, its bounds and the words for it.
`build(Recipe, {...})` makes a record from plain data and names the exact place of a mistake;
`plain(recipe)` is its inverse and returns what JSON can hold. A family of choices, such as the
parameterizations, is a base class whose members are registered by the decorator `register`.
"""

import contextlib
import dataclasses
import hashlib
import inspect
import json
import textwrap
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import (
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from layer_atlas.errors import UserError, unknown

T = TypeVar("T")

LARGEST_NUMBER = 3.4e38
"""The largest number of fp32, in which everything is computed."""


# --- plain data ----------------------------------------------------------------------------------


def canonical_json(value: object) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Parse a JSON object from any source.

    Raises:
        ValueError: the text is not a JSON object.
    """
    try:
        values = json.loads(text)
    # The text may come from anybody: deep nesting must be an error and not the end of the process.
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError(f"it holds {type(values).__name__}, not an object")
    return values


def digest(value: object) -> str:
    """Return the SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def plain(value: Any) -> Any:
    """Turn records, mappings and sequences into dicts and lists that JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: plain(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if not (f.metadata.get("late") and getattr(value, f.name) == f.default)
        }
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    # A range stays a range: a plan may hold a million targets.
    if isinstance(value, range):
        step = "" if value.step == 1 else f":{value.step}"
        return f"{value.start}:{value.stop}{step}"
    return value


# --- declaring fields ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Bounds:
    """The finite numbers that a setting may have."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            abs(value) <= LARGEST_NUMBER  # false for NaN and infinities
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        least, most = self.at_least, self.at_most
        if least is not None and most is not None:
            # Two whole numbers are a choice, two fractions are the ends of a range.
            pair = isinstance(least, int) and most - least == 1
            return f"{_number(least)} {'or' if pair else 'to'} {_number(most)}"
        if least is not None and self.below is not None:
            return f"in [{_number(least)}, {_number(self.below)})"
        if least is not None:
            return f"{_number(least)} or more"
        limits = [
            f"{words} {_number(limit)}"
            for words, limit in (("above", self.above), ("at most", most), ("below", self.below))
            if limit is not None
        ]
        return " and ".join(limits)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def setting(
    default: Any = dataclasses.MISSING,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    needs: str | None = None,
    file: str | None = None,
    phrase: str | None = None,
    off: Any = None,
    late: bool = False,
    **options: Any,
) -> Any:
    """Declare a field of a record.

    Args:
        default: value of the field if a config does not have it.
        at_least, above, at_most, below: bounds of the number, or of every number of a tuple.
        needs: how a message goes on after "NAME must" if the value is empty.
        file: kind of the file that the field names, for messages; a recipe holds its digest.
        phrase: words for captions, formatted with the value; `(s)` becomes the plural. Default:
            name and value; an empty phrase leaves the field out.
        off: value that captions omit, besides null, false, 0 and empty ones.
        late: whether plain data exclude the default, so that keys made before the setting was
            there stay what they are.
        options: further options of `dataclasses.field`.
    """
    # Bounds are data and not code, so that the settings reference can show them.
    bounds = Bounds(at_least, above, at_most, below)
    metadata = {
        "bounds": None if bounds == Bounds() else bounds,
        "needs": needs,
        "file": file,
        # In a recipe the name of a file is a digest, which no reader wants.
        "phrase": phrase if file is None else "",
        "off": off,
        "late": late,
    }
    return dataclasses.field(default=default, metadata=metadata, **options)


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


# --- records -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """A work that a record follows."""

    cite: str
    """Authors and year, as a text cites it: `Olah et al. 2017`."""
    entry: str
    """Title, place and identifier, as a list of references has it."""


class Record:
    """Base of frozen dataclasses that check and describe themselves."""

    references: ClassVar[tuple[Reference, ...]] = ()
    """The works that the record follows."""
    phrase: ClassVar[str] = ""
    """The record in the middle of a sentence; default: the first line of its docstring."""

    def __post_init__(self) -> None:
        # Single values first: conditions between fields may rely on them.
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            _check_value(field, getattr(self, field.name))
        self.check()

    def check(self) -> None:
        """Check conditions between fields.

        Raises:
            ValueError: a condition does not hold.
        """

    @property
    def lead(self) -> str:
        """What the record is, in the middle of a sentence and without its settings."""
        text = description(type(self))
        return self.phrase or text[:1].lower() + text[1:]

    def clauses(self) -> dict[str, str]:
        """The words for each setting that is on, by the name of the setting."""
        found = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            words = _clause(field, getattr(self, field.name))
            if words:
                found[field.name] = words
        return found

    def describe(self) -> str:
        """Describe the record for captions and methods: what it is, its sources, its settings."""
        works = "; ".join(reference.cite for reference in self.references)
        settings = listed(self.clauses().values())
        lead = f"{self.lead} ({works})" if works else self.lead
        return f"{lead} with {settings}" if settings else lead


def listed(words: Collection[str]) -> str:
    """Join words with commas and a final "and"."""
    *some, last = words or [""]
    return f"{', '.join(some)} and {last}" if some else last


def description(cls: type) -> str:
    """Return the first sentence of a record's docstring, without the full stop."""
    return (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ").removesuffix(".")


def _check_value(field: "dataclasses.Field[Any]", value: Any) -> None:
    needs, bounds = field.metadata.get("needs"), field.metadata.get("bounds")
    empty = not value.strip() if isinstance(value, str) else value == ()
    require(needs is None or not empty, f"{field.name} must {needs}.")
    if bounds is not None:
        for name, number in _numbers(field.name, value):
            require(number in bounds, f"{name} must be {bounds}, not {number}.")


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """The numbers of a value with their names; what stands for none (`auto`, null) is skipped."""
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _numbers(f"{name}[{index}]", item)
    elif isinstance(value, int | float):
        yield name, value


_OFF: tuple[Any, ...] = (None, False, 0, "", (), {}, (0.0, 0.0))


def _clause(field: "dataclasses.Field[Any]", value: Any) -> str:
    phrase, off = field.metadata.get("phrase"), field.metadata.get("off")
    if value in _OFF or value == off or phrase == "" or field.name == "name":
        return ""
    values = value if isinstance(value, tuple) else (value,)
    if phrase is None:
        words = field.name.replace("_", " ")
        shown = "" if value is True else " to ".join(map(_shown, values))
        return f"{words} {shown}".strip()
    plural = "" if values == (1,) else "s"
    return str(phrase.format(*map(_shown, values)).replace("(s)", plural))


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- families ------------------------------------------------------------------------------------

FAMILIES: dict[str, "type[Choice]"] = {}
"""The families of choices by their keys in the config: `objective`, `parameterization`, ..."""

_IMPLEMENTATIONS: dict[type, Callable[..., Any]] = {}


@dataclass(frozen=True)
class Choice(Record):
    """Base of records among which a config chooses by `name`.

    A family is a subclass with `family="key"`; its members are subclasses of that, with the
    decorator `register`.
    """

    name: str = ""
    """Name by which a config chooses the record."""

    choices: ClassVar[dict[str, Any]]
    """The registered members of the family, by name."""

    def __init_subclass__(cls, family: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if family:
            cls.choices = {}
            FAMILIES[family] = cls


ChoiceClass = TypeVar("ChoiceClass", bound=type[Choice])


@dataclass_transform(frozen_default=True)
def register(name: str, *, kw_only: bool = False) -> Callable[[ChoiceClass], ChoiceClass]:
    """Make a class a record and a choice of its family; in place of `@dataclass`.

    Args:
        name: by which a config chooses it.
        kw_only: whether values of its own fields are given by name alone.
    """

    def mark(cls: ChoiceClass) -> ChoiceClass:
        # As if the class body began with `name: str = "..."`.
        cls.__annotations__["name"], cls.name = str, name
        dataclass(frozen=True, kw_only=kw_only)(cls)  # changes the class itself
        # Two records of one name would be one choice, and the loser would be silently ignored.
        taken = cls.choices.setdefault(name, cls)
        assert taken is cls, f"{cls.__name__} and {taken.__name__} are both called {name!r}"
        return cls

    return mark


def implements(*records: type[Choice]) -> Callable[[type[T]], type[T]]:
    """Make a class the implementation of records: `@implements(Fourier)`."""

    def mark(cls: type[T]) -> type[T]:
        _IMPLEMENTATIONS.update(dict.fromkeys(records, cls))
        return cls

    return mark


def implementation(record: Choice) -> Callable[..., Any]:
    """Return the class that implements a record."""
    return _IMPLEMENTATIONS[type(record)]


def records_of(hint: Any) -> list[Any]:
    """List the record classes that a type hint allows; of a family, its members."""
    if get_origin(hint) in (Union, types.UnionType):
        return [record for option in get_args(hint) for record in records_of(option)]
    # A base class of a family, or of a part of it, has no name of its own.
    if isinstance(hint, type) and issubclass(hint, Choice) and not hint.name:
        return [choice for choice in hint.choices.values() if issubclass(choice, hint)]
    return [hint] if dataclasses.is_dataclass(hint) else []


def list_choices(family: str) -> str:
    """List a family: for each choice its name, description, and settings with their defaults."""
    blocks = []
    for name, record in FAMILIES[family].choices.items():
        settings = "  ".join(
            f"{field.name}={_default(field)}"
            for field in dataclasses.fields(record)
            if field.name != "name"
        )
        lines = textwrap.wrap(settings, 94, break_long_words=False, break_on_hyphens=False)
        blocks.append("\n".join([f"{name}: {description(record)}", *(f"    {s}" for s in lines)]))
    return "\n".join(blocks)


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.metadata.get("needs") and field.default in ("", ()):
        return "???"
    return json.dumps(plain(field.default), separators=(",", ":")).strip('"') or '""'


# --- building ------------------------------------------------------------------------------------


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Make a record of class `cls` from plain values, checking names and types.

    Args:
        cls: a frozen dataclass; records, families, unions, tuples, dicts and literals are followed.
        values: what JSON or YAML holds.
        where: dotted place of `values` in the config, for messages.
    Raises:
        UserError: an unknown or missing key, a value of the wrong type or out of bounds.
    """
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    # Unknown keys before missing ones: a misspelt key is mostly both.
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
    if origin is dict or origin is Mapping or dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise _wrong_type(where, value, "a mapping")
        if dataclasses.is_dataclass(hint):
            return build(_chosen(records_of(hint), value, where), value, where)
        return {str(k): _convert(get_args(hint)[1], v, f"{where}.{k}") for k, v in value.items()}
    return _convert_scalar(hint, value, where)


def _convert_union(options: Sequence[Any], value: Any, where: str) -> Any:
    records = [record for option in options for record in records_of(option)]
    if records and isinstance(value, Mapping):
        return build(_chosen(records, value, where), value, where)
    errors = []
    for option in options:
        try:
            return _convert(option, value, where)
        except UserError as error:
            errors.append(error)
    # A mistake inside a list or mapping is reported at its own place.
    inner = [e for e in errors if str(e).startswith((f"{where}[", f"{where}."))]
    expected = " or ".join(dict.fromkeys(_type_name(option) for option in options))
    raise inner[0] if inner else _wrong_type(where, value, expected)


def _chosen(records: Sequence[Any], value: Mapping[str, Any], where: str) -> Any:
    """The record whose default `name` is the one that the value has."""
    # Where there is no choice, a name is a field like others, or absent.
    if len(records) == 1 and not ("name" in value and issubclass(records[0], Choice)):
        return records[0]
    by_name = {record.name: record for record in records}
    name = value.get("name")
    if not isinstance(name, str) or name not in by_name:
        raise unknown(f"{where}.name", name, by_name)
    return by_name[name]


def _convert_tuple(items: Sequence[Any], value: Any, where: str) -> tuple[Any, ...]:
    several = len(items) == 2 and items[1] is Ellipsis
    # A text is a sequence too, but `seeds=123` must not become three seeds.
    if isinstance(value, str) or not isinstance(value, Sequence):
        if several and value is not None:  # `seeds=0` stands for `seeds=[0]`
            return (_convert(items[0], value, where),)
        raise _wrong_type(where, value, "a list")
    if several:
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
    """Convert a value of any type that JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _convert_any(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_convert_any(item, f"{where}[{i}]") for i, item in enumerate(value)]
    return None if value is None else _convert_scalar(_kind(value), value, where)


def _kind(value: Any) -> type:
    return next((kind for kind in (bool, int, float) if isinstance(value, kind)), str)


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    # YAML writes 1 for 1.0; nothing else is converted, so that a mistake is never guessed away.
    if hint is float and _kind(value) is int:
        value = float(_convert_scalar(int, value, where))
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise _wrong_type(where, value, _type_name(hint))
    # Keys and HDF5 hold 64 bits, and larger integers cannot be converted to floats.
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

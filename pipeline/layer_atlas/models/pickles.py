"""Pickles, read as data and never as code.

A pickle is a program: it names classes and functions, and the arguments to call them with. Here it
calls nothing. Whatever it names becomes a record of the call (`Foreign`), and no module is
imported, so it does not matter whether a class is installed or what it would do.
"""

import pickle
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

_MOST_LEVELS, _LONGEST_KEY = 64, 1000
"""Depth of nesting, and characters of a key: no trainer has more, and names grow with both."""


class Foreign:
    """What a pickle would have made by calling a class or a function, which was not called."""

    path: ClassVar[str] = ""
    """Dotted name of what would have been called."""

    args: tuple[Any, ...]
    state: Any
    pairs: list[tuple[Any, Any]]
    """Keys and values that would have been set, as in a dict."""
    items: list[Any]
    """Values that would have been appended, as to a list."""

    def __new__(cls, *args: Any, **_: Any) -> "Foreign":
        """Record the arguments."""
        if _SYSTEM.fullmatch(cls.path):
            raise Hostile(cls.path)
        self = object.__new__(cls)
        self.args, self.state = args, None
        self.pairs, self.items = [], []
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.pairs.append((key, value))

    def append(self, value: Any) -> None:
        """Record a value."""
        self.items.append(value)

    add = append

    def extend(self, values: Any) -> None:
        """Record values."""
        self.items.extend(values)

    @property
    def attributes(self) -> dict[Any, Any]:
        """The attributes that the object would have had."""
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        return {k: v for part in parts if isinstance(part, dict) for k, v in part.items()}


_SYSTEM = re.compile(
    r"(os|posix|nt|sys|subprocess|shutil|socket|runpy|pty|importlib|ctypes|webbrowser|code|pdb"
    r"|timeit|commands|multiprocessing|asyncio)\..*"
    r"|(builtins|__builtin__)\.(eval|exec|execfile|compile|open|__import__|input|breakpoint)"
    r"|_?io\.(open\w*|FileIO)"
)
"""Functions that no trainer has in its checkpoints: a file that calls them is an attack."""


class _Outline(pickle._Unpickler):
    """Unpickles to plain data and `Foreign` records alone."""

    # In Python rather than in C: there a small file may ask for any amount of memory. Without the
    # opcodes of registered extensions, which stand for objects of this process.
    dispatch: ClassVar = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if bytes([code]) not in (pickle.EXT1, pickle.EXT2, pickle.EXT4)
    }

    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding="latin1")  # the text of Python 2
        self._known: dict[str, type[Foreign]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return a class that records its calls, whatever is named."""
        path = f"{module}.{name}"
        if path not in self._known:
            self._known[path] = type("Foreign", (Foreign,), {"path": path})
        return self._known[path]

    def persistent_load(self, pid: Any) -> Any:
        """Record a reference to something outside the pickle: a storage."""
        # Old files refer to classes of modules with their source code.
        if isinstance(pid, tuple) and pid[:1] == ("module",):
            return pid[1]
        return Storage(pid)

    def _load_bytearray(self) -> None:
        # The original makes room for as many bytes as the file claims.
        (size,) = struct.unpack("<Q", self.read(8))  # type: ignore[attr-defined]
        self.append(bytes(self.read(size)))  # type: ignore[attr-defined]

    dispatch[pickle.BYTEARRAY8[0]] = _load_bytearray  # type: ignore[assignment]


class Storage(Foreign):
    """The numbers of tensors: type, key, device, count."""


class Hostile(Exception):
    """A pickle calls a function of the system."""


def outline(file: Any) -> Any:
    """Unpickle the next object of a binary file to plain data and `Foreign` records.

    Raises:
        Hostile: it calls a function of the system.
        pickle.UnpicklingError: it is no pickle.
        EOFError: it is cut short.
    """
    try:
        return _Outline(file).load()
    except (EOFError, MemoryError, RecursionError, Hostile):
        raise
    except Exception as error:  # an unknown opcode, an empty stack, a call of what is no function
        raise pickle.UnpicklingError(str(error)) from error


def walk(
    root: Any, wanted: Callable[[Any], bool], whole: bool = False
) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Yield the wanted values below a root, in order, with the keys that lead to them.

    What holds other values is entered once, however often it is referred to.

    Args:
        root: plain data and `Foreign` records.
        wanted: whether a value is; it is not entered then.
        whole: whether to enter arguments of calls that stand for tensors too, at any depth.
    """
    waiting: list[tuple[Any, tuple[str, ...]]] = [(root, ())]
    entered: set[int] = set()
    while waiting:
        value, keys = waiting.pop()
        if wanted(value):
            yield value, keys
            continue
        holds = isinstance(value, dict | list | tuple | Foreign)
        if not holds or id(value) in entered or (len(keys) > _MOST_LEVELS and not whole):
            continue
        entered.add(id(value))
        inner = _everything(value) if whole else _children(value)
        named = [
            (part, () if whole else (*keys, str(key)))
            for key, part in inner
            if isinstance(key, str | int) and len(str(key)) <= _LONGEST_KEY
        ]
        waiting.extend(reversed(named))


def _children(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield keys and values, as the object would have had them."""
    if not isinstance(value, Foreign):
        yield from value.items() if isinstance(value, dict) else enumerate(value)
        return
    attributes = value.attributes
    if "_parameters" in attributes and "_modules" in attributes:  # a module: names as it has them
        for kind in ("_parameters", "_buffers", "_modules"):
            yield from _pairs(attributes.get(kind))
        return
    yield from _pairs(value)
    yield from enumerate(value.items)
    yield from attributes.items()
    if not value.pairs:
        yield from enumerate(value.args)


def _pairs(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the items of a dict or of what would have become one."""
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, Foreign):
        yield from value.pairs
        # Python 2 made ordered dicts of a list of pairs.
        if value.path.endswith("OrderedDict") and value.args and isinstance(value.args[0], list):
            listed = [pair for pair in value.args[0] if isinstance(pair, list | tuple)]
            yield from ((pair[0], pair[1]) for pair in listed if len(pair) == 2)


def _everything(value: Any) -> Iterator[tuple[int, Any]]:
    """Yield all that a value refers to."""
    if isinstance(value, Foreign):
        held = [*value.args, value.state, *value.items, *(p for pair in value.pairs for p in pair)]
    elif isinstance(value, dict):
        held = [*value, *value.values()]
    else:
        held = list(value)
    yield from enumerate(held)


def as_bytes(value: Any) -> bytes:
    """Return the bytes that a value of a pickle stands for."""
    if isinstance(value, Foreign) and value.path == "_codecs.encode":
        value = value.args[0]  # bytes, as protocol 2 has them
    return value.encode("latin1") if isinstance(value, str) else bytes(memoryview(value))

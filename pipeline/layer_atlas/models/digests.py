"""Digests of a network besides its weights: its source code, and what its modules hold.

The code is part of a network's identity, which weights alone do not define. The user's own code
counts by its source, without comments and formatting, and so does any code of the user's own that
it imports. For the network's own files, imports inside functions count too. Installed packages
count by name and version; torch itself does not count.

The structure decides whether a kept inspection still stands. Classes, modes, hooks and attributes
of every module count, at any depth: numbers, texts, functions with what they enclose, plain
objects, tensors that are no parameters. A network that holds anything that cannot be described,
such as an open file or a generator, has no digest of its structure.
"""

import ast
import dataclasses
import hashlib
import inspect
import site
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache, partial
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layer_atlas.config.records import canonical_json

# --- the code ------------------------------------------------------------------------------------


_THIS = __name__.partition(".")[0]
_UNCOUNTED = frozenset({"torch", "builtins"})
"""Packages whose version affects rounding but not what is computed."""


def code_digest(network: nn.Module, factory: Callable[..., Any] | None = None) -> str:
    """Compute the SHA-256 (hex) over the code of a network.

    Args:
        network: the classes of its modules and their bases count.
        factory: the user's own callable that built it, if there is one.
    """
    classes = _classes(network)
    roots = {cls.__module__ for cls in classes}
    if factory is not None:
        # A factory often lives outside the class's module and decides the architecture by its
        # arguments.
        roots.add(getattr(_innermost(factory), "__module__", None) or "")
    counted = {name for name in roots if name.partition(".")[0] not in _UNCOUNTED}
    own = _own_sources(counted)
    packages = {_package(name) for name in counted - set(own)}
    loose = {source for cls in classes if cls.__module__ not in own and (source := _loose(cls))}
    # Sorted, because sets iterate in an order that differs between processes.
    listed = [sorted(own.items()), sorted(filter(None, packages)), sorted(loose)]
    return hashlib.sha256(repr(listed).encode()).hexdigest()


def is_identified(network: nn.Module) -> bool:
    """Return whether the digest covers every class of a network, by its source or by a version."""
    return all(map(_is_covered, _classes(network)))


def _is_covered(cls: type) -> bool:
    top = cls.__module__.partition(".")[0]
    is_of_python = top in sys.stdlib_module_names
    # The list of packages comes last, as it takes 0.3 s to make.
    return bool(
        top in _UNCOUNTED
        or is_of_python
        or _own_source(cls.__module__)
        or _loose(cls)
        or _package(cls.__module__)
    )


def loaded_files(network: nn.Module) -> list[tuple[str, int, int]]:
    """List the files of the packages that a network's classes come from, as far as imported.

    Returns: names of modules, with size in bytes and time of the last change in ns. An installed
        file that was edited in place shows here, while the version of its package is the same.
    """
    packages = {cls.__module__.partition(".")[0] for cls in _classes(network)} - _UNCOUNTED
    names = sorted(name for name in sys.modules if name.partition(".")[0] in packages - {_THIS})
    files = ((name, getattr(sys.modules[name], "__file__", None)) for name in names)
    return [
        (name, Path(file).stat().st_size, Path(file).stat().st_mtime_ns)
        for name, file in files
        if file and Path(file).is_file()
    ]


def _classes(network: nn.Module) -> set[type]:
    return {base for module in network.modules() for base in type(module).__mro__}


def _own_sources(roots: set[str]) -> dict[str, str]:
    """Return digests of the user's own source files: the given modules and all that they import."""
    digests: dict[str, str] = {}
    waiting = sorted(roots)
    while waiting:
        name = waiting.pop()
        path = None if name in digests else _own_source(name)
        if path is not None:
            source = _read(path, path.stat().st_mtime_ns)
            digests[name] = source.digest
            if not _is_of_this(name):
                # Only the network's own files count with imports inside functions: in helpers those
                # are mostly optional (plots, logging).
                imports = source.inside if name in roots else source.outside
                waiting += [*_held(name), *_imported(name, path, imports)]
    return digests


def _is_of_this(name: str) -> bool:
    """Return whether a module belongs to this project, whose imports are no part of a network."""
    return name.partition(".")[0] == _THIS


def _innermost(factory: Callable[..., Any]) -> Callable[..., Any]:
    # A partial has the module `functools`; the user's code is inside.
    while isinstance(factory, partial):
        factory = factory.func
    inner: Callable[..., Any] = inspect.unwrap(factory)
    return inner


def _loose(cls: type) -> str:
    """Compute the digest of a class defined in an interactive session rather than in a file."""
    module = sys.modules.get(cls.__module__)
    if module is None or getattr(module, "__file__", None) or cls.__module__ == "builtins":
        return ""
    try:
        return _digest_of(inspect.getsource(cls))
    except (OSError, TypeError):
        return ""


def _own_source(name: str) -> Path | None:
    """Return the source file of the user's (or this project's) module; None for installed ones."""
    module = sys.modules.get(name)
    file = _unread_file(name) if module is None else getattr(module, "__file__", None)
    if not file or not file.endswith(".py") or not Path(file).is_file():
        return None
    # Resolved, because editable installs and virtual environments often consist of symlinks.
    path = Path(file).resolve()
    installed = any(path.is_relative_to(folder) for folder in _installed_folders())
    return None if installed and not _is_of_this(name) else path


def _unread_file(name: str) -> str | None:
    """Find the source file of a module that is not imported, without importing it."""
    package, _, last = name.rpartition(".")
    # importlib.util.find_spec would import the parent packages, and thereby run their code.
    stems = [Path(folder, last) for folder in _folders(package)]
    files = (file for stem in stems for file in (stem / "__init__.py", Path(f"{stem}.py")))
    return next((str(file) for file in files if file.is_file()), None)


def _folders(package: str) -> list[str]:
    """Return the search path for the modules of a package; "" means top-level modules."""
    if not package:
        return sys.path
    if package in sys.modules:
        return list(getattr(sys.modules[package], "__path__", ()))
    outer, _, last = package.rpartition(".")
    return [str(Path(folder, last)) for folder in _folders(outer)]


@cache
def _installed_folders() -> tuple[Path, ...]:
    """Return the folders of installed packages and of the standard library."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = [*map(sysconfig.get_path, names), *site.getsitepackages(), site.getusersitepackages()]
    return tuple(Path(folder).resolve() for folder in folders if folder)


_Import = tuple[int, str, str]
"""Relative level, source module and imported name; the name alone may be the module."""


@dataclass(frozen=True)
class _Source:
    """The digest of a source file and its imports."""

    digest: str
    outside: tuple[_Import, ...]
    """Imports outside functions and conditions: these are always executed."""
    inside: tuple[_Import, ...]
    """All imports of the file."""


@cache
def _read(path: Path, changed: int) -> _Source:
    # `changed` is only a cache key: an edited file is read anew.
    text = path.read_text(encoding="utf-8", errors="replace")
    tree = _tree(text)
    # `try: import a / except ImportError` at module level is the usual form of an optional
    # dependency.
    attempts = (s for block in tree.body if isinstance(block, ast.Try) for s in block.body)
    outside = tuple(_imports([*tree.body, *attempts]))
    return _Source(_digest_of(text), outside, tuple(_imports(ast.walk(tree))))


def _imports(statements: Iterable[ast.AST]) -> Iterator[_Import]:
    for statement in statements:
        if isinstance(statement, ast.Import):
            yield from ((0, "", alias.name) for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            level, source = statement.level, statement.module or ""
            yield from ((level, source, alias.name) for alias in statement.names)


def _tree(text: str) -> ast.Module:
    """Parse a source; return an empty module if it is not valid for this Python version."""
    try:
        return ast.parse(text)
    except SyntaxError:
        return ast.Module([], [])


def _digest_of(text: str) -> str:
    """Compute the digest of a source without comments, docstrings and formatting."""
    tree = _tree(text)
    if not tree.body:
        return hashlib.sha256(text.encode()).hexdigest()
    # ast.dump has neither comments nor positions; only docstrings remain to be dropped.
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not _is_text(s)]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(statement: ast.stmt) -> bool:
    """Return whether a statement is a docstring or another string without effect."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _held(name: str) -> Iterator[str]:
    """Return the names of modules that a module's globals are, or are defined in."""
    # Globals cover imports that the syntax tree hides: `import_module`, star imports, registries.
    # The copy guards against lazy modules that add globals while they are read.
    for value in list(vars(sys.modules[name]).values()) if name in sys.modules else ():
        if isinstance(value, types.ModuleType):
            yield value.__name__
        elif inspect.isclass(value) or inspect.isroutine(value):
            yield getattr(value, "__module__", None) or ""


def _imported(name: str, path: Path, imports: Iterable[_Import]) -> Iterator[str]:
    """Return the modules that a source imports, and their parent packages, which run as well."""
    package = (name if path.name == "__init__.py" else name.rpartition(".")[0]).split(".")
    for level, source, what in imports:
        base = package[: len(package) - level + 1] if level else []
        parts = ".".join(filter(None, [*base, source, what])).split(".")
        yield from (".".join(parts[: n + 1]) for n in range(len(parts)))


def _package(name: str) -> tuple[str, str] | None:
    """Return the installed package of a module and its version, if it has one."""
    for distribution in _distributions().get(name.partition(".")[0], ())[:1]:
        return distribution, metadata.version(distribution)
    return None


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


# --- the structure -------------------------------------------------------------------------------


_LITERAL = (
    *(type(None), bool, int, float, complex, str, bytes, range, slice, type(...), PurePath),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
_HOOKS = frozenset(name for name in vars(nn.Module()) if "hooks" in name)
_HEAP_TYPE = 1 << 9
"""Flag of classes that are written in Python (`Py_TPFLAGS_HEAPTYPE`)."""


class _NotDescribable(Exception):
    """A value of a kind whose content cannot be read."""


def structure_digest(network: nn.Module) -> str | None:
    """Compute the SHA-256 over all that the modules of a network hold; `None` if it is unknown."""
    try:
        text = canonical_json(_Description().of(network))
    except (_NotDescribable, RecursionError):
        return None
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


class _Description:
    """Describes values as plain data; what was described before is referred to by its number."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._held: list[Any] = []

    def of(self, value: Any) -> Any:
        """Describe a value.

        Raises:
            _NotDescribable: it holds something of an unknown kind.
        """
        if isinstance(value, Enum):
            return [_name(type(value)), value.name]
        if isinstance(value, _LITERAL):
            return [_name(type(value)), repr(value)]
        if isinstance(value, type | types.ModuleType) or _is_builtin_function(value):
            return [_name(type(value)), _name(value)]
        if id(value) in self._numbers:
            return ["again", self._numbers[id(value)]]
        self._numbers[id(value)] = len(self._numbers)
        self._held.append(value)  # else another object could get its address
        return [_name(type(value)), self._content(value)]

    def _content(self, value: Any) -> Any:
        if isinstance(value, Tensor | np.ndarray | np.generic):
            return _numbers_in(value)
        if isinstance(value, nn.Module):
            return [[name, self._attribute(name, part)] for name, part in vars(value).items()]
        if isinstance(value, dict):
            return self._all(part for pair in value.items() for part in pair)
        if isinstance(value, list | tuple | deque):
            return self._all(value)
        if isinstance(value, set | frozenset):
            return sorted(map(canonical_json, self._all(value)))
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return self._all((value.__func__, value.__self__))
        if isinstance(value, partial):
            return self._all((value.func, value.args, value.keywords))
        return self._object(value)

    def _all(self, values: Iterable[Any]) -> list[Any]:
        return [self.of(value) for value in values]

    def _attribute(self, name: str, value: Any) -> Any:
        # The keys of hooks count the hooks of the process, whichever network they are of.
        return self._all(value.values()) if name in _HOOKS and value else self.of(value)

    def _function(self, function: types.FunctionType) -> Any:
        enclosed = inspect.getclosurevars(function).nonlocals if function.__closure__ else {}
        held = (function.__defaults__, function.__kwdefaults__, enclosed)
        return [_name(function), _code(function.__code__), self._all(held)]

    def _object(self, value: Any) -> Any:
        bases = [base for base in type(value).__mro__ if base is not object]
        is_plain = all(base.__flags__ & _HEAP_TYPE for base in bases) and hasattr(value, "__dict__")
        has_slots = any(getattr(base, "__slots__", ()) for base in bases)
        if not is_plain or (has_slots and not dataclasses.is_dataclass(value)):
            raise _NotDescribable(_name(type(value)))
        return self.of(dict(vars(value)))


def _is_builtin_function(value: Any) -> bool:
    """Return whether a value is a function of a compiled module, rather than an object's method."""
    is_builtin = isinstance(value, types.BuiltinFunctionType)
    return is_builtin and isinstance(value.__self__, type(None) | type | types.ModuleType)


def _name(value: Any) -> str:
    """Return the full name of a class, function or module."""
    qualified = getattr(value, "__qualname__", value.__name__)
    return f"{getattr(value, '__module__', '')}.{qualified}"


def _code(code: types.CodeType) -> list[str]:
    """Describe what a function does; which tells two lambdas of one name apart."""
    inner = [part for constant in code.co_consts for part in _constant(constant)]
    return [code.co_code.hex(), *code.co_names, *inner]


def _constant(constant: Any) -> list[str]:
    return _code(constant) if isinstance(constant, types.CodeType) else [repr(constant)]


def _numbers_in(value: Any) -> Any:
    if isinstance(value, nn.Parameter):  # of which the digest of the weights has the numbers
        return [str(value.dtype), list(value.shape)]
    try:
        array = value.detach().cpu().contiguous() if isinstance(value, Tensor) else value
        kind, shape = str(array.dtype), list(array.shape)
        if isinstance(array, Tensor):
            array = array.flatten().view(torch.uint8).numpy()
        if array.dtype.hasobject:
            raise _NotDescribable("an array of objects")
        return [kind, shape, hashlib.sha256(array.tobytes()).hexdigest()]
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise _NotDescribable(str(error)) from error

"""Random sweeps for the fuzz tests: any choice of every group, any value of every key.

Values either fit the type of their key, and are mostly sound, or are of any kind. What `conf/` and
the records hold is read from there: new choices and keys are drawn at once. With `ATLAS_FUZZ=20` in
the environment twenty times as many sweeps are drawn, and others every time.
"""

import dataclasses
import os
import types
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from images import AREA, PICTURE, WEIGHTS, find
from torch import Tensor

from layer_atlas.config.config import Config, config_folder
from layer_atlas.config.records import records_of

Values = dict[str, Any]
Place = tuple[Any, ...]
"""Keys and indices on the way to a value."""

_MORE = int(os.environ.get("ATLAS_FUZZ", "1"))


def fuzz(examples: int) -> settings:
    """So many examples, the same every time unless more are asked for."""
    return settings(
        max_examples=examples * _MORE,
        derandomize=_MORE == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


# --- what conf/ holds ----------------------------------------------------------------------------


def _read(path: Path) -> Values:
    text = path.read_text()
    values = {k: v for k, v in (yaml.safe_load(text) or {}).items() if k != "defaults"}
    return values if text.startswith("# @package _global_") else {path.parent.name: values}


_MAIN = yaml.safe_load((config_folder() / "config.yaml").read_text())
_TOP = {key: value for key, value in _MAIN.items() if key not in ("defaults", "hydra")}
_HINTS = get_type_hints(Config)
_DEFAULTS = {
    group: choice
    for entry in _MAIN["defaults"]
    if isinstance(entry, dict)
    for group, choice in entry.items()
    if group in _HINTS
}
_CHOICES = {
    group: {path.stem: _read(path) for path in sorted((config_folder() / group).glob("*.yaml"))}
    for group in _DEFAULTS
}
"""The choices of every group that is a part of the config, with their values."""

PHOTOGRAPH = str(find(PICTURE))
_NEEDED = {
    "photograph": PHOTOGRAPH,
    "area": str(find(AREA)),
    "picture": PHOTOGRAPH,
    "function": "random_sweeps.score",
    "terms": [{"layer": "conv1"}, {"layer": "conv2", "weight": -1.0}],
    "target": "images.Prior",
    "weights": str(find(f"3-{WEIGHTS}")),
    "latent": [12],
    "path": "figure.pdf",
    "panels": {"a": {"name": "images"}},
}
"""What some choices cannot do without."""


def score(activations: Tensor) -> Tensor:
    """An objective of the user's own."""
    return activations.mean(dim=(1, 2))


def _composed(choices: dict[str, str]) -> Values:
    """What Hydra would compose, with all that must be given."""
    values = deepcopy(_TOP)
    for group, choice in {**_DEFAULTS, **choices}.items():
        values.update(deepcopy(_CHOICES[group][choice]))
    for place in list(_places(values)):
        if _at(values, place) == "???":
            _put(values, place, deepcopy(_NEEDED[place[-1]]))
    if choices.get("parameterization") == "generator":
        values["parameterization"]["args"] = {"colours": 3}
    if choices.get("dataset") == "folder":
        values["dataset"]["path"] = str(Path(PHOTOGRAPH).parent)
    return values


def _places(values: Any, before: Place = ()) -> Iterator[Place]:
    inner = values.items() if isinstance(values, dict) else ()
    inner = enumerate(values) if isinstance(values, list) else inner
    for key, value in inner:
        yield (*before, key)
        yield from _places(value, (*before, key))


def _at(values: Any, place: Place) -> Any:
    for key in place:
        values = values[key]
    return values


def _put(values: Any, place: Place, value: Any) -> None:
    _at(values, place[:-1])[place[-1]] = value


# --- values that fit -----------------------------------------------------------------------------

_FILES = (
    *(PHOTOGRAPH, str(find(AREA)), str(find(f"3-{WEIGHTS}")), str(Path(PHOTOGRAPH).parent)),
    *("gone.png", "gone.pth", "/etc/hostname", "/dev/null", "/", "", "~nobody-of-this-name/x.pth"),
    *("x\0.png", "a" * 300 + ".pth", "a" * 5000 + ".npy", "\udcff.pth", "é.png"),
)
_OF_THE_SWEEP: dict[str, tuple[Any, ...]] = {
    "weights": ("default", "none", *_FILES),
    "output_root": (*_FILES[4:], "out"),
    "name": ("demo", "x", "../x", "", "a/b", "\0", "x" * 300, "é", " ", "-", "a\nb"),
    "models": (
        ["demo"],
        ["demo", {"name": "demo", "label": "x", "weights": "none"}],
        [{"name": "m", "target": "tests.models.test_load.build_net", "args": {"width": 5}}],
        [{"name": "m", "target": "tests.models.test_load.build_net", "args": {"depth": 5}}],
        [
            "demo",
            {"name": "m", "target": "tests.models.test_load.build_net", "layers": ["0", "2"]},
        ],
        ["demo", "demo"],
        [{"name": "demo", "input_size": 20, "label": "../<b>\n"}],
        [{"name": "demo", "input_size": 10**6}],
        [{"name": "demo", "mean": [0.5], "std": [0.2]}],
        [{"name": "demo", "mean": [], "std": []}],
        [{"name": "demo", "categories": "/etc/hostname"}],
        [{"name": "m", "target": "os.getcwd"}],
        [{"name": "m", "target": "..."}],
        ["timm/none"],
        ["\udcff"],
    ),
    "layers": (None, ["conv1"], ["conv*"], ["*"], ["output"], ["*@Conv2d"], ["conv9"], ["["], [""]),
    "channels": (
        *("all", "0:4", "0:64:16", "-4:", "::", "4:0", "a:b", [0, 3], [-1], [10**9], ["0"], [1.5]),
        *({"random": 2}, {"random": 0}, {"zip": ["0:2", "2:4"]}, {"product": ["all", [1]]}),
        *([[0, 1], [2, 3]], [[0, 1, 2]], [[]], {}, 5, True, None),
    ),
    "image_size": (16, 17, 20, [16, 24], [33, 16], "photograph", 15, 0, None, [16], 4097),
}
_OF_ITS_PARTS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("photograph", "area", "picture", "weights", "vectors", "path"), _FILES),
    "terms": (
        [{"layer": "conv1"}, {"layer": "conv*"}],
        [{"layer": "conv1", "model": "demo"}, {"layer": "0", "model": "m"}],
        [{"layer": "output"}, {"layer": "conv1", "weight": 0}],
        [{"layer": "conv1"}],
    ),
    "function": ("random_sweeps.score", "random_sweeps.gone", "os.getcwd", "os.sep", "."),
    "target": ("images.Prior", "tests.models.test_load.build_net", "os.getcwd", "gone.x"),
    "latent": ([12], [12, 1, 1], [5], [10**12], [0]),
    "devices": ("auto", "cpu", ["cpu", "cpu"], ["cuda:93"], "mps", [""]),
    "dataset": ("CIFAR10", "FakeData", "Gone"),
}
"""Of these keys most values of the right type make no sense, or take for ever."""
_ARGS = (None, {}, {"colours": 3}, {"size": 3, "image_size": [3, 16, 16]}, {"": 1}, {"root": "."})


def _fitting(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a type, near those that are sound."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return st.sampled_from(inner)
    if origin in (Union, types.UnionType):
        return st.one_of(*(_fitting(one) for one in inner if not dataclasses.is_dataclass(one)))
    if origin is tuple:
        length = (
            {"min_size": 1, "max_size": 3}
            if Ellipsis in inner
            else dict.fromkeys(("min_size", "max_size"), len(inner))
        )
        return st.lists(_fitting(inner[0]), **length)
    if origin is dict:
        return st.sampled_from(_ARGS)
    return _SCALARS.get(hint, st.nothing())


_SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(0, 12) | st.sampled_from((-1, 64, 100, 4096, 2**62)),
    float: st.floats(0, 2) | st.sampled_from((-0.5, 0.0, 1.0, 50.0, 1e30, 1e-300)),
    str: st.sampled_from(("", "x", "conv1", "local", "é", "auto")),
    type(None): st.none(),
}


def _fits(values: Values) -> dict[Place, st.SearchStrategy[Any]]:
    """Values that fit each key of the config."""
    found = {(key,): _fitting(hint) for key, hint in _HINTS.items() if key not in _DEFAULTS}
    found |= {(key,): st.sampled_from(some) for key, some in _OF_THE_SWEEP.items()}
    for group in _DEFAULTS:
        if isinstance(values[group], dict):
            hints = get_type_hints(_record(group, values[group].get("name")))
            for key in values[group].keys() - {"name"}:
                some = _OF_ITS_PARTS.get(key)
                found[group, key] = st.sampled_from(some) if some else _fitting(hints[key])
    return found


def _record(group: str, name: str | None) -> Any:
    """The class of a choice."""
    records = records_of(_HINTS[group])
    return next(r for r in records if len(records) == 1 or r.name == name)


# --- values of any kind --------------------------------------------------------------------------

ODD = (
    *(None, True, 0, -1, 10**400, 2**63, 1e308, float("nan"), float("inf"), "", " ", "all", "0:4"),
    *("é\u2028x", "\x00", "\udcff", "../x", "x\ny", "x" * 10_000, "???", "none", "demo", "*"),
    *("${nothing}", "${oc.env:NO_SUCH_VARIABLE}", "${name}", "${models}", "${..}", "${a:b}"),
    *([], [[]], [0], [1, 1], ["???"], [None], list(range(500)), {}, {"name": None}, {1: 2}),
    *({None: 3}, {"random": 3}, {"a": {"b": [{"c": None}]}}, [{"layer": "conv1"}], b"bytes"),
)
_leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30)
of_any_kind: st.SearchStrategy[Any] = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


# --- sweeps --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sweep:
    """Values of a config, and what was changed in them."""

    values: Values
    choices: dict[str, str]
    changes: list[tuple[Place, Any]]

    @property
    def words(self) -> set[str]:
        """One of them is in any message about this sweep: a key, a choice or a value."""
        told = {str(key).removesuffix("s") for place, _ in self.changes for key in place}
        told |= {text for _, value in self.changes for text in _shown(value)}
        told |= {"channels"} if "objective" in self.choices else set()  # some need certain ones
        return told | set(self.choices) | set(self.choices.values())


def _shown(value: Any) -> Iterator[str]:
    inner = list(value.values()) if isinstance(value, dict) else value
    if isinstance(inner, list) and inner:
        for item in [*inner, *(value if isinstance(value, dict) else ())]:
            yield from _shown(item)
    elif str(value).strip():
        yield ascii(value)[:40].strip("'\"")
        yield str(value)[:40]


@st.composite
def sweeps(draw: st.DrawFn, odd: bool) -> Sweep:
    """A few choices that are not the default, and a few changed values; `odd` ones if told so."""
    pairs = [(group, choice) for group, options in _CHOICES.items() for choice in options]
    choices = dict(draw(st.lists(st.sampled_from(pairs), max_size=3)))
    values = _composed(choices)
    fits = _fits(values)
    # Files, networks and layers can go wrong in more ways than numbers, which are most of the keys.
    risky = [place for place in sorted(fits) if place[-1] in {*_OF_THE_SWEEP, *_OF_ITS_PARTS}]
    places = st.sampled_from(risky) | st.sampled_from(sorted(fits))
    changes: list[tuple[Place, Any]] = []
    for place in draw(st.lists(places, max_size=1 if odd else 3)):
        changes.append((place, deepcopy(draw(fits[place]))))
        _put(values, *changes[-1])
    for _ in range(draw(st.integers(0, 2)) if odd else 0):
        changes.append(_oddity(draw, values))
    return Sweep(values, choices, changes)


def _oddity(draw: st.DrawFn, values: Values) -> tuple[Place, Any]:
    """Change a value to one of any kind, take it away, or put one where none is expected."""
    place = draw(st.sampled_from(list(_places(values))))
    how = draw(st.sampled_from(("odd", "odd", "odd", "any", "gone", "new")))
    within = _at(values, place[:-1])
    value = deepcopy(draw(of_any_kind if how in ("any", "new") else st.sampled_from(ODD)))
    if how == "gone":
        value = within.pop(place[-1])
    elif how == "new" and isinstance(within, dict):
        place = (*place[:-1], draw(st.sampled_from(("nmae", "é", "", "a.b", 1))))
        within[place[-1]] = value
    else:
        within[place[-1]] = value
    return place, value

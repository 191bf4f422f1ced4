"""Write docs/settings.md, the reference of every setting, from the records and from conf/.

    python scripts/settings_page.py

The meaning of a setting is the docstring of its field, its bounds are those that the field
declares, and its default is that of the YAML file of its choice.
"""

import ast
import dataclasses
import inspect
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from layer_atlas.config.config import Config, ModelConfig, config_folder
from layer_atlas.config.objectives import Term
from layer_atlas.config.records import FAMILIES, Choice, description, records_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

_HEAD = "| key | default | values | meaning |\n|---|---|---|---|"
_INTRODUCTION = """\
# Settings

Every setting of `atlas` is `KEY=VALUE` on the command line, or a line of a YAML file. This page is
generated from the code: do not edit it, run `python scripts/settings_page.py`. A group is a setting
with named choices: `optimizer=sgd` takes all defaults of that choice, `optimizer.momentum=0.9`
changes one. Presets (`quality`, `pace`, `experiment`, `montage`) set several settings at once.
`atlas run --cfg job` prints what a command line amounts to.
"""


def settings_page() -> str:
    """Return the page."""
    hints = get_type_hints(Config)
    groups = [
        name for name, hint in hints.items() if records_of(hint) and name in _sentences(Config)
    ]
    groups = [name for name in groups if name not in ("models", "judge")]
    base = yaml.safe_load((config_folder() / "config.yaml").read_text())
    plain = [f for f in dataclasses.fields(Config) if f.name not in groups]
    parts = [
        _INTRODUCTION,
        "## The sweep\n",
        _table(Config, "", base, [f.name for f in plain]),
        "## `models[]`\n",
        f"{description(ModelConfig)}.\n",
        _table(ModelConfig, "models[].", {}),
        "## Presets\n",
        *_presets(),
    ]
    for name in groups:
        parts += _group(name, hints[name])
    return "\n".join(parts).rstrip() + "\n"


def _presets() -> Iterator[str]:
    for group in ("quality", "pace", "experiment", "montage"):
        yield f"- `{group}`: {_names(path.stem for path in _files(group))}"
    yield ""


def _group(name: str, hint: Any) -> Iterator[str]:
    defaults = {path.stem: yaml.safe_load(path.read_text()) or {} for path in _files(name)}
    yield f"## `{name}`\n"
    yield f"{_sentences(Config)[name]} Choices: {_names(defaults)}.\n"
    records = records_of(hint)
    if name not in FAMILIES:
        (record,) = records
        own = next((d for d in defaults.values() if d.keys() >= _keys(record)), {})
        yield _table(record, f"{name}.", own)
        return
    yield f"`{name}.name` is the name of the choice.\n"
    shared = _shared(records, defaults)
    if shared:
        yield "All choices have:\n"
        yield _table(records[0], f"{name}.", defaults.get(records[0].name, {}), shared)
    for record in records:
        yield from _choice(record, name, defaults.get(record.name, {}), shared)


def _choice(
    record: type[Choice], group: str, defaults: Mapping[str, Any], shared: Iterable[str]
) -> Iterator[str]:
    works = "".join(f" {work.cite}: {work.entry}" for work in record.references)
    yield f"### `{group}={record.name}`\n"
    yield f"{description(record)}.{works}\n"
    own = [f.name for f in dataclasses.fields(record) if f.name not in {"name", *shared}]
    if own:
        yield _table(record, f"{group}.", defaults, own)
    if group == "objective" and "terms" in own:
        yield f"Each of `objective.terms` is {description(Term).lower()}:\n"
        yield _table(Term, "objective.terms[].", {})


def _shared(records: list[Any], defaults: Mapping[str, Any]) -> list[str]:
    """The settings that all members of a family have, with one default and one meaning."""
    rows = [dict(_rows(r, "", defaults.get(r.name, {}), None)) for r in records]
    return [key for key, row in rows[0].items() if all(other.get(key) == row for other in rows[1:])]


def _table(
    record: type, prefix: str, defaults: Mapping[str, Any], names: Iterable[str] | None = None
) -> str:
    return "\n".join([_HEAD, *(row for _, row in _rows(record, prefix, defaults, names))]) + "\n"


def _rows(
    record: Any, prefix: str, defaults: Mapping[str, Any], names: Iterable[str] | None
) -> Iterator[tuple[str, str]]:
    sentences, hints = _sentences(record), get_type_hints(record)
    wanted = None if names is None else set(names)
    for field in dataclasses.fields(record):
        is_name = field.name == "name" and issubclass(record, Choice)
        if is_name if wanted is None else field.name not in wanted:
            continue
        default = defaults.get(field.name, field.default)
        cells = (f"`{prefix}{field.name}`", _default(default), _values(field, hints[field.name]))
        meaning = sentences.get(field.name, "").replace("|", "\\|")
        yield field.name, f"| {' | '.join(cells)} | {meaning} |"


def _default(value: Any) -> str:
    if value is dataclasses.MISSING or value == "???":
        return "required"
    return f"`{json.dumps(value)}`" if value not in (None, "") else ""


def _values(field: "dataclasses.Field[Any]", hint: Any) -> str:
    """The bounds of a setting, and the words that it takes."""
    bounds = field.metadata.get("bounds")
    words = [f"`{word}`" for word in _literals(hint)]
    return ", ".join([*([str(bounds)] if bounds else []), *words])


def _literals(hint: Any) -> Iterator[str]:
    if get_origin(hint) is Literal:
        yield from map(str, get_args(hint))
    else:
        for part in get_args(hint):
            yield from _literals(part)


@cache
def _sentences(record: type) -> dict[str, str]:
    """The docstring of every field of a record, those of its bases included."""
    found: dict[str, str] = {}
    for base in reversed(record.__mro__):
        if dataclasses.is_dataclass(base):
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(definition, ast.ClassDef)
            for statement, after in pairwise(definition.body):
                text = after.value if isinstance(after, ast.Expr) else None
                if isinstance(statement, ast.AnnAssign) and isinstance(text, ast.Constant):
                    found[ast.unparse(statement.target)] = " ".join(str(text.value).split())
    return found


def _keys(record: type) -> set[str]:
    return {f.name for f in dataclasses.fields(record)} - {"name"}  # type: ignore[arg-type]


def _files(group: str) -> list[Path]:
    return sorted((config_folder() / group).glob("*.yaml"))


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    PAGE.write_text(settings_page())
    print(f"wrote {PAGE}")

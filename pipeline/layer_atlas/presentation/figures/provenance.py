"""Provenance of figures, kept beside and in their files, so that either can be made again."""

import html
import io
import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, fields
from importlib import metadata
from typing import Any

from PIL import Image

from layer_atlas import __version__
from layer_atlas.atlas.reader import Atlas
from layer_atlas.config.figures import AgainFigure, FigureSettings
from layer_atlas.config.inputs import user_file
from layer_atlas.config.records import build, canonical_json, plain
from layer_atlas.errors import UserError, unknown
from layer_atlas.presentation.figures.selection import Selection

SCHEMA = "layer-atlas-figure/1"
KEY = "provenance"
"""Key of the text within a PNG."""

_PACKAGES = ("matplotlib", "fonttools", "scipy", "numpy", "pillow", "h5py")


@dataclass(frozen=True)
class Provenance:
    """Everything that decides how a figure looks; without paths, because figures are published."""

    schema: str
    command: str
    """Command that makes the figure from the output folder alone."""
    name: str
    """Name of the output folder."""
    figure: FigureSettings
    """Settings of the figure."""
    atlas: dict[str, Any]
    """Digest of the atlas's content, and the versions that made it."""
    layers: dict[str, Any]
    """Source and digest of the network, recipe, seeds, channels and groups of each layer."""
    versions: dict[str, str]
    """Versions of the packages that drew the figure."""

    @property
    def text(self) -> str:
        """The provenance as JSON, on one line."""
        return canonical_json(plain(self))


def provenance_of(
    name: str, atlas: Atlas, settings: FigureSettings, selections: Iterable[Selection]
) -> Provenance:
    """The provenance of a figure of an output folder of this name."""
    return Provenance(
        schema=SCHEMA,
        command=command_of(name, settings),
        name=name,
        figure=settings,
        atlas={"content": atlas.content, "versions": atlas.versions},
        layers={
            selection.layer.title: {
                "source": str(selection.layer.model.facts["source"]),
                "weights_sha256": str(selection.layer.model.facts["weights_sha256"]),
                "recipe": selection.layer.recipe,
                "seeds": selection.layer.seeds,
                "channels": list(selection.channels),
                "groups": selection.members,
            }
            for selection in selections
        },
        versions={"layer-atlas": __version__, **_versions()},
    )


def _versions() -> dict[str, str]:
    return {package: metadata.version(package) for package in _PACKAGES}


# --- the command ---------------------------------------------------------------------------------


def command_of(name: str, settings: FigureSettings) -> str:
    """The command that makes a figure; defaults are omitted."""
    overrides = [f"name={name}", f"figure={settings.name}"]
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value != field.default and field.name != "name":
            overrides.append(f"figure.{field.name}={hydra_value(plain(value))}")
    return " ".join(["atlas", "figure", *map(shlex.quote, overrides)])


def hydra_value(value: Any) -> str:
    """Write a value in the grammar of Hydra's command line."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{key}: {hydra_value(item)}" for key, item in sorted(value.items()))
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(hydra_value, value)) + "]"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value not in _WORDS else _quoted(value)
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


_PLAIN = re.compile(r"[A-Za-z_*][\w.*@/-]*", re.ASCII)
_WORDS = ("null", "true", "false", "inf", "nan")


def _quoted(text: str) -> str:
    """Quote a text, and escape interpolations in it."""
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    text = re.sub(r'(\\*)"', r'\1\1\\"', text)
    return '"' + re.sub(r"(\\+)$", r"\1\1", text) + '"'


# --- again ---------------------------------------------------------------------------------------


def read_provenance(again: AgainFigure) -> Provenance:
    """Read the provenance in a figure or beside it.

    Raises:
        UserError: there is no such file, or it holds no provenance.
    """
    data = user_file(again.path, "figure").read_bytes()
    try:
        values = json.loads(_text_in(data))
        schema = values["schema"]
    except (ValueError, KeyError, TypeError, OSError) as error:  # Pillow raises OSError
        raise UserError(
            f"{again.path!r} has no record of how it was made; use the .provenance.json beside a "
            "figure, or a figure (.pdf, .svg, .png, .tiff) that `atlas figure` made."
        ) from error
    if schema != SCHEMA:
        raise unknown(f"schema of {again.path!r}", schema, [SCHEMA])
    return build(Provenance, values)


def _text_in(data: bytes) -> str:
    """Extract the provenance from a file, by its first bytes."""
    if data.startswith(b"%PDF"):
        return _text_in_pdf(data)
    if data.startswith(b"\x89PNG"):
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            picture.load()
            return str(picture.info[KEY])
    if data[:4] in (b"II*\0", b"MM\0*"):
        with Image.open(io.BytesIO(data), formats=["TIFF"]) as picture:
            return str(picture.tag_v2[_DESCRIPTION])  # type: ignore[attr-defined]
    text = data.decode()
    selection = re.search(r"<dc:description>(.*?)</dc:description>", text, re.DOTALL)
    return html.unescape(selection[1]) if selection else text


_DESCRIPTION = 270
"""Tag of the description in a TIFF file."""


def _text_in_pdf(data: bytes) -> str:
    """Extract the keywords of a PDF: a literal string with escaped characters."""
    selection = re.search(rb"/Keywords \(((?:[^\\()]|\\.)*)\)", data, re.DOTALL)
    if not selection:
        raise ValueError("no keywords")
    return re.sub(rb"\\(.)", rb"\1", selection[1], flags=re.DOTALL).decode("ascii")

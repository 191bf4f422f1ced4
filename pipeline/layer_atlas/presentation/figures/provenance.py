"""Where a figure comes from: kept beside it and in it, so that it can be made again from either."""

import html
import io
import json
import re
import shlex
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
from layer_atlas.presentation.figures.base import RenderedFigure

SCHEMA = "layer-atlas-figure/1"
KEY = "provenance"
"""What the text is called within a PNG."""

_PACKAGES = ("matplotlib", "fonttools", "scipy", "numpy", "pillow", "h5py")


@dataclass(frozen=True)
class Provenance:
    """All that decides how a figure looks. No paths of a machine: figures are published."""

    schema: str
    command: str
    """What makes the figure, from the output folder alone."""
    name: str
    """Of the output folder."""
    figure: FigureSettings
    """Its settings."""
    atlas: dict[str, Any]
    """Digest of what the atlas is made of, and with which versions it was made."""
    layers: dict[str, Any]
    """Of each layer: source and digest of the network, recipe, seeds, channels, groups."""
    versions: dict[str, str]
    """Of what drew the figure."""

    @property
    def text(self) -> str:
        """As JSON, on one line."""
        return canonical_json(plain(self))


def provenance_of(
    name: str, atlas: Atlas, settings: FigureSettings, drawing: RenderedFigure
) -> Provenance:
    """Where a figure of an output folder of this name comes from."""
    return Provenance(
        schema=SCHEMA,
        command=command_of(name, settings),
        name=name,
        figure=settings,
        atlas={"content": atlas.content, "versions": atlas.versions},
        layers={
            found.layer.title: {
                "source": str(found.layer.model.facts["source"]),
                "weights_sha256": str(found.layer.model.facts["weights_sha256"]),
                "recipe": found.layer.recipe,
                "seeds": found.layer.seeds,
                "channels": list(found.channels),
                "groups": found.members,
            }
            for found in drawing.shown
        },
        versions={"layer-atlas": __version__, **_versions()},
    )


def _versions() -> dict[str, str]:
    return {package: metadata.version(package) for package in _PACKAGES}


# --- the command ---------------------------------------------------------------------------------


def command_of(name: str, settings: FigureSettings) -> str:
    """The command that makes a figure: what is not said is as it is by default."""
    overrides = [f"name={name}", f"figure={settings.name}"]
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value != field.default and field.name != "name":
            overrides.append(f"figure.{field.name}={hydra_value(plain(value))}")
    return " ".join(["atlas", "figure", *map(shlex.quote, overrides)])


def hydra_value(value: Any) -> str:
    """A value as Hydra's command line has it."""
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
    """A text in quotes, in which nothing is meant as an interpolation."""
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    text = re.sub(r'(\\*)"', r'\1\1\\"', text)
    return '"' + re.sub(r"(\\+)$", r"\1\1", text) + '"'


# --- again ---------------------------------------------------------------------------------------


def read_provenance(again: AgainFigure) -> Provenance:
    """What a figure says of itself.

    Raises:
        UserError: there is no such file, or it does not say whence it comes.
    """
    data = user_file(again.path, "figure").read_bytes()
    try:
        values = json.loads(_text_in(data))
        schema = values["schema"]
    except (ValueError, KeyError, TypeError, OSError) as error:  # Pillow raises OSError
        raise UserError(
            f"{again.path!r} does not say how it was made; take the .provenance.json beside a "
            "figure, or a figure (.pdf, .svg, .png, .tiff) that `atlas figure` made."
        ) from error
    if schema != SCHEMA:
        raise unknown(f"schema of {again.path!r}", schema, [SCHEMA])
    return build(Provenance, values)


def _text_in(data: bytes) -> str:
    """The provenance in a file, by what it begins with."""
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
    found = re.search(r"<dc:description>(.*?)</dc:description>", text, re.DOTALL)
    return html.unescape(found[1]) if found else text


_DESCRIPTION = 270
"""Tag of a TIFF file."""


def _text_in_pdf(data: bytes) -> str:
    """The keywords of a PDF: a literal string, in which some signs are escaped."""
    found = re.search(rb"/Keywords \(((?:[^\\()]|\\.)*)\)", data, re.DOTALL)
    if not found:
        raise ValueError("no keywords")
    return re.sub(rb"\\(.)", rb"\1", found[1], flags=re.DOTALL).decode("ascii")

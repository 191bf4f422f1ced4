"""Draw a figure from an atlas, and write its files with caption, methods and provenance."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import scipy.cluster.hierarchy  # noqa: F401 - what is not installed is reported before drawing

from layer_atlas.atlas.reader import Atlas, open_atlas
from layer_atlas.config.outputs import AgainFigure, Figure, FigureSettings
from layer_atlas.errors import UserError
from layer_atlas.presentation.collate import read_summary
from layer_atlas.presentation.figures.comparison import draw_comparison
from layer_atlas.presentation.figures.composite import PANELS, draw_composite
from layer_atlas.presentation.figures.files import (
    files_of,
    provenance_of,
    read_provenance,
    with_names_shown,
)
from layer_atlas.presentation.figures.latex import figure_environment, merged_bibliography
from layer_atlas.presentation.figures.methods import texts_of
from layer_atlas.presentation.figures.selection import RenderedFigure
from layer_atlas.presentation.layout.figure import style
from layer_atlas.store.files import write_atomically, write_json
from layer_atlas.store.folder import OutputFolder, safe_name

KINDS: dict[str, Callable[..., RenderedFigure]] = {
    **PANELS,
    "composite": draw_composite,
    "comparison": draw_comparison,
}
"""Drawing function of each kind of figure."""


def make_figure(folder: OutputFolder, figure: Figure) -> list[str]:
    """Draw a figure and write its files to the output folder.

    Args:
        folder: the output folder.
        figure: settings of the figure.
    Returns: lines that list the files.
    Raises:
        UserError: the atlas lacks what the settings name, or there is no room for it.
        StorageError: the disk is full or fails.
    """
    notes = []
    with open_atlas(folder.atlas) as atlas:
        if isinstance(figure, AgainFigure):
            before = read_provenance(figure)
            figure = before.figure
            # Settings repeat a figure exactly only on the same atlas.
            if before.atlas["content"] != atlas.content:
                notes.append("note: the atlas has changed since; the figure may look different")
        elif isinstance(figure, FigureSettings) and figure.names is None:
            summary = read_summary(folder)
            figure = replace(figure, names=summary.settings.names if summary else None)
        if not any(atlas[name].has_images for name in atlas):
            raise UserError(
                f"no image of {str(folder.root)!r} is made yet; start its run again, then draw."
            )
        assert isinstance(figure, FigureSettings)  # as all figures are that are drawn from an atlas
        return _draw(folder, atlas, figure) + notes


def _draw(folder: OutputFolder, atlas: Atlas, settings: FigureSettings) -> list[str]:
    name = settings.file or settings.name
    if safe_name(name) != name:
        raise UserError(
            f"figure.file={name!r} cannot be the name of a file: use letters, digits, - and _. "
            f"Figures are in {str(folder.figures)!r}."
        )
    with style(settings):
        rendered = KINDS[settings.name](atlas, settings)
        settings = with_names_shown(settings, rendered)
        provenance = provenance_of(folder.root.name, atlas, settings, rendered)
        title = settings.title or f"{settings.name} of {folder.root.name}"
        files, pages = files_of(rendered.pages, settings.formats, title, provenance.text)
    for end, data in files.items():
        write_atomically(folder.figures / f"{name}{end}", data)
    _remove_others(folder, name, files)
    write_json(folder.figures / f"{name}.provenance.json", json.loads(provenance.text))
    texts = texts_of(atlas, rendered, settings.citations)
    note, ends = f"% {provenance.command}\n", list(files)
    beside = {
        ".tex": note + figure_environment(name, texts.caption, settings.width, ends, pages),
        ".caption.tex": f"{note}{texts.caption}\n",
        ".methods.tex": texts.latex,
        ".methods.md": texts.markdown,
    }
    for end, text in beside.items():
        write_atomically(folder.figures / f"{name}{end}", text.encode())
    _add_to_bibliography(folder.figures / BIBLIOGRAPHY, texts.entries)
    return [*_summary(folder, name, files), *_beside(name, beside)]


BIBLIOGRAPHY = "references.bib"


def _add_to_bibliography(path: Path, entries: Sequence[str]) -> None:
    """Add what a figure cites to the bibliography of all figures of the folder."""
    before = path.read_text() if path.exists() else ""
    write_atomically(path, merged_bibliography(before, entries).encode())


def _beside(name: str, ends: Iterable[str]) -> list[str]:
    """A line that lists the files beside the figure."""
    names = [f"{name}{end}" for end in (*ends, ".provenance.json")]
    return [f"beside it: {', '.join(names)}, {BIBLIOGRAPHY}"]


def _remove_others(folder: OutputFolder, name: str, files: dict[str, bytes]) -> None:
    """Remove pages that an earlier figure of this name had, in the formats written now."""
    formats = "|".join({end.rpartition(".")[2] for end in files})
    pages = re.compile(rf"{re.escape(name)}((-\d+)?\.({formats}))")
    for path in folder.figures.iterdir():
        found = pages.fullmatch(path.name)
        if found and found[1] not in files:
            path.unlink(missing_ok=True)


def _summary(folder: OutputFolder, name: str, files: dict[str, bytes]) -> list[str]:
    """Lines that list the files, one for each format."""
    formats: dict[str, list[str]] = {}
    for end in files:
        formats.setdefault(end.rpartition(".")[2], []).append(f"{name}{end}")
    lines = []
    for kind, names in formats.items():
        size = sum(len(data) for end, data in files.items() if end.endswith(f".{kind}"))
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"{folder.figures / names[0]}{more}  ({size / 1e6:.1f} MB)")
    return lines

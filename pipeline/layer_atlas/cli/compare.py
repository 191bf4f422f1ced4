"""`atlas compare A B`: which runs or models are meant, and the table of what was found."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from layer_atlas.atlas.comparison import (
    Pairs,
    Similarity,
    compare_layers,
    encode_comparison,
    paired_layers,
)
from layer_atlas.cli.tables import table
from layer_atlas.config.config import Config
from layer_atlas.config.outputs import ComparisonFigure
from layer_atlas.errors import UserError
from layer_atlas.logs import step
from layer_atlas.presentation.collate import ensure_atlas
from layer_atlas.store.files import write_atomically
from layer_atlas.store.folder import OutputFolder, output_folder, safe_name

logger = logging.getLogger(__name__)

MATRIX = "matrix"
"""Word that asks for the correlations of all pairs of channels."""

_SHOWN = 3
"""Channels that are named of each layer."""


@dataclass(frozen=True)
class Sides:
    """The two sides of a comparison."""

    titles: tuple[str, str]
    one: OutputFolder
    other: OutputFolder
    models: tuple[str, str] | None
    """Labels of the models; `None`: all that both runs have."""

    @property
    def file(self) -> Path:
        """Where the numbers go: beside the figures of the one side, which `clean` keeps."""
        both = self.titles if self.models else self.titles[1:]
        return self.one.figures / f"compare-{safe_name('-'.join(both))}.h5"


def sides_of(config: Config, words: Sequence[str]) -> Sides:
    """Find what two words name: output folders, or else models of the run `name`.

    Raises:
        UserError: there are not two words, or only one of them names a run.
    """
    if len(words) != 2:
        raise UserError(
            "`atlas compare A B` compares two runs, by name or folder, or two models of the run "
            f"`name`; it takes two words, not {len(words)}."
        )
    runs = [find_run(config.output_root, word) for word in words]
    one, other = runs
    if one and other:
        return Sides((one.root.name, other.root.name), one, other, None)
    if one or other:
        lacking = words[0] if other else words[1]
        raise UserError(
            f"there is no run {lacking!r} in {config.output_root!r}, nor a folder of that name; "
            "two models of one run are compared by their labels, with name=..."
        )
    folder = output_folder(config.output_root, config.name)
    return Sides((words[0], words[1]), folder, folder, (words[0], words[1]))


def find_run(root: str, word: str) -> OutputFolder | None:
    """Find the output folder of a run by its name, or by the path of the folder."""
    folders = (Path(root).expanduser() / word, Path(word).expanduser())
    found = (folder for folder in folders if (folder / "manifest.json").is_file())
    # `.` has no name of its own.
    return next((OutputFolder(path if path.name else path.resolve()) for path in found), None)


def compare_report(config: Config, words: Sequence[str]) -> str:
    """Compare two runs or models, write the numbers, and return the table.

    Args:
        config: names the root of runs, the run of models, and the layers.
        words: two sides and, for the correlations of all pairs of channels, `matrix`.
    Raises:
        UserError: what cannot be compared, found before anything is computed.
        StorageError: the disk is full or fails.
    """
    sides = sides_of(config, [word for word in words if word != MATRIX])
    pairs = paired_layers(sides.one, sides.other, sides.models, config.layers)
    with step("comparing responses"):
        found = dict(compare_layers(pairs))
    write_atomically(
        sides.file, encode_comparison(sides.titles, pairs, found, with_matrix=MATRIX in words)
    )
    table_ = comparison_table(sides.titles, pairs, found)
    return "\n".join([table_, "", str(sides.file), *_figure(config, sides)])


def _figure(config: Config, sides: Sides) -> list[str]:
    """Draw the channels that changed most and least; returns lines that list the files."""
    settings = config.figure if isinstance(config.figure, ComparisonFigure) else ComparisonFigure()
    settings = replace(settings, path=sides.file.name, file=settings.file or sides.file.stem)
    missing = next((x.root for x in (sides.one, sides.other) if not x.atlas.exists()), None)
    if missing is not None:
        logger.warning("no figure is drawn: %s has no atlas yet", missing)
        return []
    try:
        from layer_atlas.presentation.figures.make import make_figure

        for folder in (sides.one, sides.other):
            ensure_atlas(folder)
        with step("drawing the figure"):
            return make_figure(sides.one, settings)
    # The numbers need neither images nor matplotlib.
    except (UserError, ImportError) as error:
        logger.warning("no figure is drawn: %s", error)
        return []


def comparison_table(titles: tuple[str, str], pairs: Pairs, found: Mapping[str, Similarity]) -> str:
    """Table of the layers, with the channels that changed most, and what its columns mean."""
    first, dataset = next(iter(pairs.values()))[0], next(iter(found.values()))
    assert first.plan.dataset_plan is not None
    header = ("layer", "channels", "by index", "by match", "moved", "changed most, by index")
    rows = [(name, *_row(similarity)) for name, similarity in found.items()]
    silent = sum(int((similarity.match < 0).sum()) for similarity in found.values())
    notes = [
        "Means over channels of the correlation of responses to the same images, with the channel",
        "of the same index, and with its best match; `moved` channels match another index.",
    ]
    if silent:
        notes.append(f"{silent} respond alike to all images in either model, and are excluded.")
    sizes = {
        model.dataset_image_size for pair in pairs.values() for model in (x.model for x in pair)
    }
    if len(sizes) > 1:
        shown = " and ".join(map(str, sorted(sizes)))
        notes.append(f"The models saw the images at {shown} px, which lowers similarity too.")
    title = (
        f"{titles[0]} against {titles[1]}, by {dataset.images} images of "
        f"{first.plan.dataset_plan.source}"
    )
    return "\n".join([title, "", table(header, rows), "", *notes])


def _row(similarity: Similarity) -> tuple[object, ...]:
    index, match = similarity.by_index, similarity.match
    moved = (match >= 0) & (match != np.arange(len(match)))
    order = [k for k in np.argsort(index, kind="stable").tolist() if np.isfinite(index[k])]
    most = ", ".join(f"{k} ({index[k]:.2f})" for k in order[:_SHOWN])
    return len(match), _mean(index), _mean(similarity.match_similarity), int(moved.sum()), most


def _mean(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    return f"{known.mean():.3f}" if len(known) else "-"

"""The evidence sheets of a layer, page by page, from the atlas alone; and saliency overlays."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.gather import LayerView
from layer_atlas.config.datasets import MOST_PHOTOGRAPHS
from layer_atlas.datasets.image_files import from_jpeg
from layer_atlas.plan.jobs import FATES, WITHOUT_IMAGE, named
from layer_atlas.plan.labels import sampling_of, weights_words
from layer_atlas.presentation.montages.evidence_sheet import (
    MOST_IMAGES,
    EvidenceRow,
    draw_sheet,
    pages,
    rows_per_page,
)
from layer_atlas.presentation.montages.montage import label_given, with_reader_name
from layer_atlas.store.files import write_atomically

_FACTS = {
    "activation": "{:.4g}",
    "percentile": "{:.3g}",
    "agreement": "{:.2f}",
    "agreement_rank": "{}",
    "recognisability": "{:.2f}",
    "selectivity": "{:.2f}",
}
"""The numbers of each target and their formats: those of the seed that agrees most with dataset
images, which is named before them if there are several."""

_NOTES = {
    "percentile": "Percentile: where the image's activation lies among the photographs'.",
    "agreement": "Agreement: cosine between the layer's answers to the image and to the channel's "
    "photographs; rank: how many channels' photographs it resembles more, plus one.",
    "recognisability": "Recognisability: how often another network, given the image, tells "
    "photographs that excite the channel from those that do not; 0.5 is chance.",
    "dataset": "Frames: what the position of the largest response sees.",
}
"""Sentences on what a sheet shows, by the data of the layer that they are about."""


SMOOTHING = 0.03
"""Standard deviation of the display's smoothing, as a fraction of the longer side: the maps of
single gradients are speckles, too thin to show a colour through."""

_WHITE = 255.0
"""Colour to which a dataset image fades."""

FADED = 0.35
"""Fraction of the grey image that is left where the map is zero, to see what was there."""


def write_pages(view: LayerView, tile: int, names: Mapping[str, str] | None = None) -> None:
    """Write the sheets of a layer if the atlas has dataset images; old sheets are removed.

    Args:
        view: the layer.
        tile: largest side of images in pixels.
        names: names of layers for readers, as `collate.names`.

    Raises:
        StorageError: the disk is full or fails.
    """
    label, name = view.model.label, view.layer.info.name
    written = set()
    for number, page in enumerate(_pages(view, tile, names), 1):
        path = view.folder.sheet(label, name, number)
        write_atomically(path, page)
        written.add(path)
    for path in view.folder.sheets(label, name):
        if path not in written:
            path.unlink(missing_ok=True)


def n_pages(group: h5py.Group, tile: int) -> int:
    """Number of sheets of a layer of an atlas; 0 without dataset images."""
    # Statistics alone, without pictures, make no sheet.
    if "dataset" not in group or "top_jpeg" not in group["dataset"]:
        return 0
    return len(_cut(group, tile))


def _cut(group: h5py.Group, tile: int) -> list[range]:
    """The rows of each sheet, which number the targets, or the facets of each."""
    facts = len(_FACTS) + (len(group["seed"]) > 1) + 2 * ("facet" in group)
    return pages(len(group["channel"]) * _facets(group), rows_per_page(tile, facts))


def _facets(group: h5py.Group) -> int:
    """Rows per target: one for each facet, or one."""
    return len(group["variant"]) if "facet" in group else 1


def _pages(view: LayerView, tile: int, names: Mapping[str, str] | None) -> Iterator[bytes]:
    """The sheets as PNG files, a page of rows in memory at a time."""
    with h5py.File(view.folder.atlas, "r") as atlas:
        group = atlas[view.group]
        cut = _cut(group, tile) if n_pages(group, tile) else []
        for number, page in enumerate(cut, 1):
            label = named(view.model.label, view.model.origin.weights)
            title = f"{label}  {with_reader_name(view, names).info.name}"
            title += f"  ({number} of {len(cut)})" if len(cut) > 1 else ""
            source = f"{group['dataset'].attrs['photographs']} photographs"
            targets = sampling_of(view.plan, view.model, view.layer).words()
            facts = (targets, weights_words(view.model), view.model.recipe.summary(), source)
            subtitle = "; ".join(filter(None, facts))
            cells = [divmod(row, _facets(group)) for row in page]
            labels = [label_given(view, names, view.layer.targets[row]) for row, _ in cells]
            rows = [_row(group, *cell, label) for cell, label in zip(cells, labels, strict=True)]
            yield draw_sheet(title, subtitle, rows, tile, _notes(group)).png()


def _notes(group: h5py.Group) -> tuple[str, ...]:
    return tuple(note for name, note in _NOTES.items() if name in group)


def _row(group: h5py.Group, row: int, facet: int = 0, label: str = "") -> EvidenceRow:
    """Read what a sheet shows of one target, or of one facet of it with its dataset images."""
    dataset = group["dataset"]
    seeds = _seeds(group, row)
    status, images = group["status"][row, seeds], group["image"][row, seeds]
    made = ~np.isin(status, WITHOUT_IMAGE)
    facts, side = _facts(group, row, facet), images.shape[-2]
    strongest = _dataset_images(dataset, "top_jpeg", row, side)
    overlays = _overlays(dataset, row, strongest)
    boxes = dataset["top_view_box"][row, : len(strongest)]
    if "facet" in group:
        members = _members(group, row, facet)
        images = images[:, facet]
        facts = {"facet": str(facet + 1), "images": str(len(members)), **facts}
        members = members[members < len(strongest)][:MOST_PHOTOGRAPHS]
        strongest, boxes = strongest[members], boxes[members]
        if overlays is not None:
            overlays = overlays[members[members < len(overlays)]]
    return EvidenceRow(
        target=int(group["channel"][row]),
        images=tuple(image if there else None for image, there in zip(images, made, strict=True)),
        fates=tuple(FATES.get(int(code), "") for code in status),
        strongest=strongest,
        overlays=overlays,
        weakest=_dataset_images(dataset, "bottom_jpeg", row, side)[:MOST_PHOTOGRAPHS],
        boxes=boxes,
        facts=facts,
        label=label,
    )


def _members(group: h5py.Group, row: int, facet: int) -> NDArray[np.intp]:
    """Ranks of the dataset images of a facet; no seed decides them."""
    members: NDArray[np.intp] = np.flatnonzero(group["facet"][row].max(axis=0) == facet + 1)
    return members


def _dataset_images(dataset: h5py.Group, name: str, row: int, size: int) -> NDArray[np.uint8]:
    """A channel's dataset images (n, size, size, 3), as many as there are."""
    files = dataset[name][row] if name in dataset else ()
    pictures = [from_jpeg(file, size) for file in files if len(file)]
    return np.stack(pictures) if pictures else np.zeros((0, size, size, 3), np.uint8)


def _overlays(
    dataset: h5py.Group, row: int, strongest: NDArray[np.uint8]
) -> NDArray[np.uint8] | None:
    if "top_saliency" not in dataset or not len(strongest):
        return None
    maps = dataset["top_saliency"][row]
    return np.stack([overlay(pixels, s) for pixels, s in zip(strongest, maps, strict=False)])


def _seeds(group: h5py.Group, row: int) -> list[int]:
    """Indices of the seeds that a sheet shows: the first ones, and the one of the facts."""
    first, best = list(range(len(group["seed"])))[:MOST_IMAGES], _best(group, row)
    return first if best in first else [*first[:-1], best]


def _best(group: h5py.Group, row: int) -> int:
    """Index of the seed that agrees most with dataset images, or 0."""
    return max(0, int(group["best_seed_index"][row])) if "best_seed_index" in group else 0


def _facts(group: h5py.Group, row: int, facet: int) -> dict[str, str]:
    seed = _best(group, row)
    known = {name: group[name] for name in _FACTS if name in group}
    values: dict[str, Any] = {k: v[(row, seed, facet)[: v.ndim]] for k, v in known.items()}
    facts = {
        name.removeprefix("agreement_"): _FACTS[name].format(value)
        for name, value in values.items()
        if not math.isnan(value) and (name != "agreement_rank" or value > 0)
    }
    several = len(group["seed"]) > 1 and facts
    return {"seed": str(group["seed"][seed]), **facts} if several else facts


# --- saliency ------------------------------------------------------------------------------------


def overlay(pixels: NDArray[np.uint8], saliency: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Show a dataset image where its saliency is strong, and a pale grey print of it elsewhere.

    w * pixels + (1 - w) * (FADED * grey + (1 - FADED) * white) with w = s / max s, where s is the
    map under a Gaussian and grey the mean of the colours. A map of zeros gives the print alone.
    The smoothing is for display: the stored map is not smoothed.

    Args:
        pixels: (H, W, 3).
        saliency: (H, W).
    Returns: (H, W, 3).
    """
    weight = _weights(saliency)[..., None]
    colours = pixels.astype(np.float64)
    grey = colours.mean(axis=2, keepdims=True)
    faded = FADED * grey + (1.0 - FADED) * _WHITE
    mixed = weight * colours + (1.0 - weight) * faded
    rounded: NDArray[np.uint8] = np.rint(mixed).astype(np.uint8)
    return rounded


def _weights(saliency: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Weight of the image: (H, W) in [0, 1]; 0 everywhere for a map of zeros."""
    smooth = saliency.astype(np.float64)
    sigma = SMOOTHING * max(saliency.shape)
    for axis in (0, 1):
        smooth = (_gaussian(saliency.shape[axis], sigma) @ smooth).T
    peak = smooth.max()
    return smooth / peak if peak > 0 else smooth


def _gaussian(size: int, sigma: float) -> NDArray[np.float64]:
    """A matrix (size, size) that smooths a column; each row sums to 1, also at the borders."""
    at = np.arange(size)
    kernel = np.exp(-0.5 * ((at[:, None] - at[None, :]) / sigma) ** 2)
    rows: NDArray[np.float64] = kernel / kernel.sum(axis=1, keepdims=True)
    return rows

"""Sheets of evidence of a layer, page by page, from the atlas alone."""

import io
import math
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.gather import LayerView
from layer_atlas.datasets.image_files import from_jpeg
from layer_atlas.plan.jobs import FATES, STATUS
from layer_atlas.plan.labels import describe_recipe, sampling_of, weights_words
from layer_atlas.plan.origin import named
from layer_atlas.presentation.montages.evidence_row import MOST_IMAGES, EvidenceRow
from layer_atlas.presentation.montages.evidence_sheet import draw_sheet, pages, rows_per_page
from layer_atlas.presentation.montages.overlay import overlay
from layer_atlas.store.files import write_atomically

_FACTS = {
    "activation": "{:.4g}",
    "percentile": "{:.3g}",
    "agreement": "{:.2f}",
    "agreement_rank": "{}",
    "selectivity": "{:.2f}",
}
"""The numbers of each channel and their formats: of the seed that agrees most, named before them if
there are several."""

_NOTES = (
    "Percentile: where the image's activation lies among the photographs'.",
    "Agreement: cosine between the layer's answers to the image and to the channel's photographs; "
    "rank: how many channels' photographs it resembles more, plus one.",
    "Frames: what the position of the largest response sees.",
)


def write_pages(view: LayerView, tile: int) -> None:
    """Draw the sheets of a layer, as far as the atlas knows photographs; old ones are removed.

    Raises:
        StorageError: the disk is full or fails.
    """
    label, name = view.model.label, view.layer.info.name
    written = set()
    for number, page in enumerate(_pages(view, tile), 1):
        path = view.folder.sheet(label, name, number)
        write_atomically(path, page)
        written.add(path)
    for path in view.folder.sheets(label, name):
        if path not in written:
            path.unlink(missing_ok=True)


def n_pages(group: h5py.Group, tile: int) -> int:
    """How many sheets a layer of an atlas has; none where it knows no photographs."""
    if "dataset" not in group or "top_jpeg" not in group["dataset"]:
        return 0
    return len(_cut(group, tile))


def _cut(group: h5py.Group, tile: int) -> list[range]:
    """The rows of each sheet."""
    facts = len(_FACTS) + (len(group["seed"]) > 1)
    return pages(len(group["channel"]), rows_per_page(tile, facts))


def _pages(view: LayerView, tile: int) -> Iterator[bytes]:
    """The sheets as PNG files, a page of rows in memory at a time."""
    with h5py.File(view.folder.atlas, "r") as atlas:
        group = atlas[view.group]
        cut = _cut(group, tile) if n_pages(group, tile) else []
        for number, page in enumerate(cut, 1):
            label = named(view.model.label, view.model.origin.weights)
            title = f"{label}  {view.layer.info.name}"
            title += f"  ({number} of {len(cut)})" if len(cut) > 1 else ""
            source = f"{group['dataset'].attrs['dataset_images']} photographs"
            targets = sampling_of(view.plan, view.model, view.layer).words()
            facts = (targets, weights_words(view.model), describe_recipe(view.model.recipe), source)
            subtitle = "; ".join(filter(None, facts))
            rows = [_row(group, row) for row in page]
            buffer = io.BytesIO()
            draw_sheet(title, subtitle, rows, tile, _NOTES).save(buffer, "PNG", compress_level=4)
            yield buffer.getvalue()


def _row(group: h5py.Group, row: int) -> EvidenceRow:
    """What a sheet shows of one channel."""
    dataset = group["dataset"]
    seeds = _seeds(group, row)
    status, images = group["status"][row, seeds], group["image"][row, seeds]
    made = ~np.isin(status, (STATUS["failed"], STATUS["missing"]))
    strongest = _photographs(dataset, "top_jpeg", row, images.shape[1])
    return EvidenceRow(
        channel=int(group["channel"][row]),
        images=tuple(image if there else None for image, there in zip(images, made, strict=True)),
        words=tuple(FATES.get(int(code), "") for code in status),
        strongest=strongest,
        overlays=_overlays(dataset, row, strongest),
        weakest=_photographs(dataset, "bottom_jpeg", row, images.shape[1]),
        boxes=dataset["top_view_box"][row, : len(strongest)],
        facts=_facts(group, row),
    )


def _photographs(dataset: h5py.Group, name: str, row: int, size: int) -> NDArray[np.uint8]:
    """The pictures of a channel's photographs (n, size, size, 3), as many as there are."""
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
    """The places of the seeds whose images a sheet shows: the first, and the one with the facts."""
    first, best = list(range(len(group["seed"])))[:MOST_IMAGES], _best(group, row)
    return first if best in first else [*first[:-1], best]


def _best(group: h5py.Group, row: int) -> int:
    """The place of the seed that agrees most with photographs, or the first."""
    return max(0, int(group["best_seed_index"][row])) if "best_seed_index" in group else 0


def _facts(group: h5py.Group, row: int) -> dict[str, str]:
    seed = _best(group, row)
    values: dict[str, Any] = {name: group[name][row, seed] for name in _FACTS if name in group}
    facts = {
        name.removeprefix("agreement_"): _FACTS[name].format(value)
        for name, value in values.items()
        if not math.isnan(value) and (name != "agreement_rank" or value > 0)
    }
    several = len(group["seed"]) > 1 and facts
    return {"seed": str(group["seed"][seed]), **facts} if several else facts

"""Make the site of an output folder: its pages, their files, and when it is made again."""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from layer_atlas.atlas.layers import default_ranking
from layer_atlas.atlas.reader import Atlas, Layer, Model, open_atlas
from layer_atlas.config.recipe import LARGEST_IMAGE
from layer_atlas.config.records import build, digest, plain
from layer_atlas.datasets.projection import Projection, check_projection
from layer_atlas.errors import UserError
from layer_atlas.plan.plan import ModuleInfo
from layer_atlas.presentation.names import NOTES_SCHEMA, Note, notes_for, read_notes
from layer_atlas.presentation.site.about import about_data
from layer_atlas.presentation.site.files import (
    PER_SHEET,
    STRIP,
    DatasetImages,
    SiteFiles,
    folder_of,
    is_complete,
    put_up,
    script,
    site_files,
    write_images,
    write_strip,
)
from layer_atlas.presentation.site.layer_data import (
    blocks,
    channel_blocks,
    layer_data,
    layer_facts,
    points_data,
    whole,
    words_data,
    write_photographs,
)
from layer_atlas.store.files import write_json
from layer_atlas.store.folder import OutputFolder, safe_name
from layer_atlas.store.manifest import read_manifest

logger = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_ASSETS, _LAYOUT = _HERE / "assets", _HERE.parent / "layout"
_DIGITS = 16
"""Digits of the digest that names the folder of a site."""

_SCRIPTS = (
    *("data", "elements", "routes", "notes", "order", "tiles", "curve"),
    *("overview", "about", "filters", "grid", "plane", "map", "points", "viewer"),
    *("connections", "networks", "channel", "labels", "search", "help", "start"),
)
"""Parts of `site.js`, in order: browsers load one file much sooner than many."""


@dataclass(frozen=True)
class _Extras:
    """What a site is made of besides an atlas."""

    folder: OutputFolder
    names: Mapping[str, str] | None
    """Names of layers for readers."""
    projection: Projection | Literal["none"]
    """The projection of similarity maps."""
    notes: Mapping[str, Note]
    """Notes by the places that they are on."""


def make_site(
    folder: OutputFolder,
    names: Mapping[str, str] | None = None,
    projection: Projection | Literal["none"] = "none",
) -> Path:
    """Make the site of an atlas, unless it is there; returns its first page.

    Only one layer's sheet is in memory at a time, whatever the number of images.

    Args:
        folder: has the atlas.
        names: names of layers for readers, as `collate.names` has them.
        projection: of similarity maps, as `collate.map` has it.
    Raises:
        UserError: there is no atlas, or it is not one, or what `projection` needs is not
            installed.
        StorageError: the disk is full or fails.
    """
    check_projection(projection, "collate.map")
    page = folder.site / "index.html"
    with open_atlas(folder.atlas) as atlas:
        extras = _Extras(folder, names, projection, _notes(folder, atlas))
        name = _identity(atlas, extras)
        if folder_of(folder.site) == name and is_complete(folder.site / name):
            return page
        with site_files(folder.site / name) as files:
            _write_all(files, atlas, extras)
    put_up(folder.site, name, _page(folder.root.name, name))
    return page


def take_notes(folder: OutputFolder, file: Path) -> None:
    """Keep a file of notes in the output folder, for its sites.

    Raises:
        UserError: it is no such file, or has notes on what the atlas does not have.
        StorageError: the disk is full or fails.
    """
    with open_atlas(folder.atlas) as atlas:
        notes = notes_for(file, atlas.target_spaces)
    write_json(folder.notes, {"schema": NOTES_SCHEMA, "notes": plain(notes)})


def _notes(folder: OutputFolder, atlas: Atlas) -> dict[str, Note]:
    """The notes of an output folder that this atlas has a place for.

    A later atlas may have other layers, and a run must not fail at its end over a note.
    """
    if not folder.notes.exists():
        return {}
    try:
        notes = read_notes(folder.notes)
    except UserError as error:
        logger.warning("the site has no notes: %s", error)
        return {}
    layers = {layer.title: set(layer.numbers) for layer in atlas.values()}
    parts = {place: place.rpartition(":") for place in notes}
    return {
        place: notes[place]
        for place, (title, _, numbers) in parts.items()
        if numbers in layers.get(title, ())
    }


def _identity(atlas: Atlas, extras: _Extras) -> str:
    """Digest that differs for another atlas, other names, maps or notes, and other code."""
    code = hashlib.sha256()
    # The layout paints the site's pictures, so that its code is part of the identity too.
    files = (path for folder in (_HERE, _LAYOUT) for path in folder.rglob("*.*"))
    for path in sorted(path for path in files if path.suffix != ".pyc"):
        code.update(path.read_bytes())
    title = extras.folder.root.name
    made_of: list[Any] = [atlas.content or atlas.created, title, code.hexdigest()]
    made_of += [dict(extras.names)] if extras.names else []
    made_of += [extras.projection] if extras.projection != "none" else []
    made_of += [plain(extras.notes)] if extras.notes else []
    # A later collation may add these to an atlas of the same content, where scipy is there by then.
    made_of += ["match"] if any("match" in layer for layer in atlas.values()) else []
    return digest(made_of)[:_DIGITS]


def _page(title: str, folder: str) -> str:
    templates = FileSystemLoader(_HERE / "templates")
    environment = Environment(loader=templates, autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("index.html.jinja")
    return page.render(title=title, folder=folder)


def _write_all(files: SiteFiles, atlas: Atlas, extras: _Extras) -> None:
    folder, names = extras.folder, extras.names
    for name in ("style.css", "icon.svg"):
        files.write(name, (_ASSETS / name).read_bytes())
    files.write("site.js", b"\n".join((_ASSETS / f"{n}.js").read_bytes() for n in _SCRIPTS))
    manifest = read_manifest(folder) if folder.manifest.exists() else {}
    number = 0
    models = []
    named: dict[str, list[list[Any]]] = {}
    for model in atlas.models.values():
        layers = []
        for layer in model.layers.values():
            place = f"{number:03}-{safe_name(layer.name)}"
            layer = layer.called(names)
            layers.append(_write_layer(files, place, layer, extras.projection))
            layers[-1]["montage"] = files.take(
                f"{place}/montage.png", folder.montage(model.name, layer.name)
            )
            named[place] = _named_channels(layer)
            number += 1
        modules = _modules(manifest, model.name)
        models.append({**_model_facts(model), "modules": modules, "layers": layers})
    title, words = folder.root.name, words_data(atlas, names)
    weights = [[model["name"], model["weights"]] for model in models]
    index = {
        "title": title,
        "created": atlas.created,
        # A wider or newer atlas of the same networks keeps the notes of a browser.
        "identity": digest([title, weights])[:_DIGITS],
        "notes": plain(extras.notes),
        "models": models,
        "words": words is not None,
    }
    files.write("index.js", script("index", index))
    files.write("about.js", script("about", about_data(atlas, names, manifest)))
    files.write("names.js", script("names", named))
    if words is not None:
        files.write("words.js", script("words", words))


def _modules(manifest: Mapping[str, Any], label: str) -> list[list[Any]]:
    """The modules of a network in order, each its name, type and shape; none if not known."""
    try:
        (model,) = (each for each in manifest["plan"]["models"] if each["label"] == label)
        modules = [build(ModuleInfo, module) for module in model.get("modules", ())]
    except (KeyError, TypeError, ValueError, UserError):  # an atlas from elsewhere
        return []
    return [[each.name, each.module_type, list(each.shape)] for each in modules]


def _named_channels(layer: Layer) -> list[list[Any]]:
    """The channels whose labels are more than a number, for the search.

    Returns: number and label of each, and the name of the class that a label of the user's hides.
    """
    names = layer.channel_names or [""] * len(layer.channels)
    columns = (layer.channels, layer.labels, layer.numbers, layer.given_labels, names)
    return [
        [channel, label, *([name] if given and name else [])]
        for channel, label, number, given, name in zip(*columns, strict=True)
        if label != number
    ]


def _model_facts(model: Model) -> dict[str, Any]:
    facts = model.facts
    return {
        "name": model.name,
        "source": str(facts.get("source", "")),
        "architecture": _architecture(str(facts.get("source", ""))),
        "weights": str(facts.get("weights_sha256", "")),
        "about": model.weights,
        "size": [whole(side) for side in np.atleast_1d(facts.get("seen_size", []))],
    }


def _architecture(source: str) -> str:
    """A source without what selects weights: the tag of timm's, the arguments of a callable.

    >>> _architecture("timm/resnet18.a1_in1k"), _architecture('nets.build({"seed":3})')
    ('timm/resnet18', 'nets.build')
    """
    callable_name, _, _ = source.partition("(")
    return source.partition(".")[0] if source.startswith("timm/") else callable_name


def _write_layer(
    files: SiteFiles, folder: str, layer: Layer, projection: Projection | Literal["none"]
) -> dict[str, Any]:
    """Write the files of a layer; returns its record in the overview."""
    check(layer)
    strip = _write_strip(files, folder, layer)
    write_images(files, folder, layer)
    points = None if projection == "none" else points_data(layer, projection)
    data = {**layer_data(layer), "points": points}
    files.write(f"{folder}/layer.js", script(f"{folder}/layer", data))
    for number, block in channel_blocks(layer):
        name = f"{folder}/channels-{number}"
        files.write(f"{name}.js", script(name, block))
    write_dataset_images(files, folder, layer)
    for row in range(len(layer.channels) if layer.has_map else 0):
        write_photographs(files, layer, row)
    return {**layer_facts(layer), "folder": folder, "strip": strip}


def write_dataset_images(files: SiteFiles, folder: str, layer: Layer) -> None:
    """Write the dataset images of all targets of a layer, and maps in blocks of targets."""
    dataset_images = DatasetImages(layer)
    for row in range(len(layer.channels) if dataset_images.across else 0):
        dataset_images.write(files, folder, row)
    for rows in blocks(layer) if dataset_images.map_size else ():
        name = f"{folder}/maps-{rows.start // PER_SHEET}"
        files.write(f"{name}.js", script(name, dataset_images.maps(rows)))


def _write_strip(files: SiteFiles, folder: str, layer: Layer) -> dict[str, Any]:
    """Write the images that represent a layer in the overview: those of its strongest targets."""
    by = default_ranking(layer)
    channels = layer.strongest(STRIP, by) if by in layer else layer.channels[:STRIP]
    rows, lead = [layer.row(channel) for channel in channels], layer.leads()
    tile = write_strip(files, folder, layer, [(row, int(lead[row])) for row in rows])
    return {"count": len(rows), "tile": list(tile)}


# --- checks --------------------------------------------------------------------------------------


_MOST_COLOURS = 64


class _Array(NamedTuple):
    """Type and shape that an HDF5 dataset must have, if it is there."""

    name: str
    kind: str
    """Kind of its dtype, as in numpy; `O`: files or texts."""
    shape: tuple[int, ...]
    """Lengths of its first axes."""
    further: int = 0
    """Number of axes after these."""


def check(layer: Layer) -> None:
    """Check the shapes and types of the datasets that a site reads.

    Raises:
        UserError: something is not as in an atlas, or nothing can show it.
    """
    if "image" not in layer or "status" not in layer:
        raise UserError(f"{layer.title} has no images that a site could show.")
    # A damaged atlas is refused before its arrays reach numpy or Pillow.
    for wanted in _arrays(layer):
        if wanted.name in layer:
            _check_array(layer.dataset(wanted.name), wanted, layer.title)
    *_, height, width, colours = layer.dataset("image").shape
    if not (min(height, width) > 0 and max(height, width) <= LARGEST_IMAGE):
        raise UserError(f"images of {layer.title} are of {height} x {width} pixels.")
    if not 1 <= colours <= _MOST_COLOURS:
        raise UserError(f"images of {layer.title} have {colours} colours.")


def _arrays(layer: Layer) -> Iterator[_Array]:
    channels = (len(layer.channels),)
    jobs = (*channels, len(layer.seeds))
    images = (*jobs, len(layer.variants)) if layer.variants else jobs
    samples = layer.dataset("sample_path").shape if "sample_path" in layer else ()
    yield _Array("status", "u", jobs)
    yield _Array("image", "u", images, 3)
    yield _Array("trace", "f", images, 1)
    yield _Array("trace_step", "i", (), 1)
    yield _Array("response", "f", images, 1)
    yield _Array("best_seed_index", "i", channels)
    for name in ("grid", "row", "column", "count"):
        yield _Array(f"cell_{name}", "i", channels)
    yield _Array("cell_channel", "i", channels, 1)
    yield _Array("cell_channel_value", "f", channels, 1)
    yield _Array("cell_member", "i", channels, 1)
    yield _Array("cell_jpeg", "O", channels, 1)
    for name, kind, axes in (("view_box", "i", 1), ("row", "i", 0), ("column", "i", 0)):
        yield _Array(f"sample_{name}", kind, samples, axes)
    yield _Array("other_model", "O", (), 1)
    others = layer.dataset("other_model").shape[:1] if "other_model" in layer else ()
    for name, kind in (("similarity", "f"), ("match", "i"), ("match_similarity", "f")):
        if others:
            yield _Array(name, kind, (*channels, *others))
    yield _Array("dataset/top_saliency", "u", channels, 3)
    yield _Array("dataset/top_activation", "u", channels, 3)
    yield _Array("dataset/top_activation_bounds", "f", channels, 2)
    for name in ("min", "max"):
        yield _Array(f"dataset/{name}", "f", channels)
    for end in ("top", "bottom"):
        yield _Array(f"dataset/{end}_jpeg", "O", channels, 1)
        yield _Array(f"dataset/{end}_path", "O", channels, 1)
        yield _Array(f"dataset/{end}_score", "f", channels, 1)
        yield _Array(f"dataset/{end}_view_box", "i", channels, 2)


def _check_array(dataset: h5py.Dataset, wanted: _Array, title: str) -> None:
    known = len(wanted.shape)
    fits = dataset.shape[:known] == wanted.shape and dataset.ndim == known + wanted.further
    typed = dataset.dtype.kind == wanted.kind
    if wanted.name.endswith("_jpeg"):
        typed = h5py.check_vlen_dtype(dataset.dtype) == np.dtype(np.uint8)
    elif wanted.kind == "O":
        typed = h5py.check_string_dtype(dataset.dtype) is not None
    if not (fits and typed):
        raise UserError(
            f"{wanted.name!r} of {title} is {dataset.dtype} of shape {dataset.shape}, which no "
            "atlas holds; collate it again."
        )

"""Make the site of an output folder: its pages, and when it must be made again."""

import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from layer_atlas.atlas.reader import Atlas, Layer, Model, open_atlas
from layer_atlas.atlas.reader.layers import default_ranking
from layer_atlas.config.records import digest
from layer_atlas.presentation.site.files import (
    SiteFiles,
    folder_of,
    is_complete,
    put_up,
    script,
    site_files,
)
from layer_atlas.presentation.site.layer_data import (
    channel_blocks,
    check,
    layer_data,
    layer_facts,
    leads,
    whole,
)
from layer_atlas.presentation.site.pictures import STRIP, DatasetImages, write_images, write_strip
from layer_atlas.store.folder import OutputFolder, safe_name

_HERE = Path(__file__).parent
_ASSETS, _LAYOUT = _HERE / "assets", _HERE.parent / "layout"
_DIGITS = 16
"""Digits of the digest that names the folder of a site."""

_SCRIPTS = (
    *("data", "elements", "routes", "order", "tiles", "curve"),
    *("overview", "grid", "channel", "search", "help", "start"),
)
"""Parts of `site.js`, in order: browsers load one file much sooner than twelve."""


def make_site(folder: OutputFolder) -> Path:
    """Make the site of an atlas, unless it is there; returns its first page.

    Only one layer's sheet is in memory at a time, whatever the number of images.

    Raises:
        UserError: there is no atlas, or it is not one.
        StorageError: the disk is full or fails.
    """
    page = folder.site / "index.html"
    with open_atlas(folder.atlas) as atlas:
        name = _identity(folder, atlas)
        if folder_of(folder.site) == name and is_complete(folder.site / name):
            return page
        with site_files(folder.site / name) as files:
            _write_all(files, atlas, folder.root.name)
    put_up(folder.site, name, _page(folder.root.name, name))
    return page


def _identity(folder: OutputFolder, atlas: Atlas) -> str:
    """Digest that differs for another atlas, another name and other code."""
    code = hashlib.sha256()
    # The layout paints the site's pictures, so that its code is part of the identity too.
    files = (path for folder in (_HERE, _LAYOUT) for path in folder.rglob("*.*"))
    for path in sorted(path for path in files if path.suffix != ".pyc"):
        code.update(path.read_bytes())
    made_of = [atlas.content or atlas.created, folder.root.name, code.hexdigest()]
    return digest(made_of)[:_DIGITS]


def _page(title: str, folder: str) -> str:
    templates = FileSystemLoader(_HERE / "templates")
    environment = Environment(loader=templates, autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("index.html.jinja")
    return page.render(title=title, folder=folder)


def _write_all(files: SiteFiles, atlas: Atlas, title: str) -> None:
    for name in ("style.css", "icon.svg"):
        files.write(name, (_ASSETS / name).read_bytes())
    files.write("site.js", b"\n".join((_ASSETS / f"{n}.js").read_bytes() for n in _SCRIPTS))
    number = 0
    models = []
    for model in atlas.models.values():
        layers = []
        for layer in model.layers.values():
            layers.append(_write_layer(files, f"{number:03}-{safe_name(layer.name)}", layer))
            number += 1
        models.append({**_model_facts(model), "layers": layers})
    about = {"title": title, "created": atlas.created, "models": models}
    files.write("index.js", script("index", about))


def _model_facts(model: Model) -> dict[str, Any]:
    facts = model.facts
    return {
        "name": model.name,
        "source": str(facts.get("source", "")),
        "architecture": _architecture(str(facts.get("source", ""))),
        "weights": str(facts.get("weights_sha256", "")),
        "about": model.weights,
        "size": whole(facts.get("input_size", 0)),
    }


def _architecture(source: str) -> str:
    """A source without what selects weights: the tag of timm's, the arguments of a callable.

    >>> _architecture("timm/resnet18.a1_in1k"), _architecture('nets.build({"seed":3})')
    ('timm/resnet18', 'nets.build')
    """
    callable_name, _, _ = source.partition("(")
    return source.partition(".")[0] if source.startswith("timm/") else callable_name


def _write_layer(files: SiteFiles, folder: str, layer: Layer) -> dict[str, Any]:
    """Write the files of a layer; returns its record in the overview."""
    check(layer)
    strip = _write_strip(files, folder, layer)
    write_images(files, folder, layer)
    files.write(f"{folder}/layer.js", script(f"{folder}/layer", layer_data(layer)))
    for number, block in channel_blocks(layer):
        name = f"{folder}/channels-{number}"
        files.write(f"{name}.js", script(name, block))
    dataset_images = DatasetImages(layer)
    for row in range(len(layer.channels) if dataset_images.across else 0):
        dataset_images.write(files, folder, row)
    return {**layer_facts(layer), "folder": folder, "strip": strip}


def _write_strip(files: SiteFiles, folder: str, layer: Layer) -> dict[str, Any]:
    """Write the images that represent a layer in the overview: those of its strongest targets."""
    by = default_ranking(layer.statistics)
    channels = layer.strongest(STRIP, by) if by in layer else layer.channels[:STRIP]
    rows, lead = [layer.row(channel) for channel in channels], leads(layer)
    tile = write_strip(files, folder, layer, [(row, int(lead[row])) for row in rows])
    return {"count": len(rows), "tile": list(tile)}

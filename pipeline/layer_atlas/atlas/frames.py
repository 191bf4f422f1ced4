"""An atlas for analysis: tables of statistics (pandas), labelled arrays (xarray), comparisons.

Columns and arrays carry the names of `Layer.statistics`, with `_` for `/`: `dataset_mean`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layer_atlas.atlas.comparison import Similarity
from layer_atlas.errors import UserError
from layer_atlas.plan.jobs import STATUS

if TYPE_CHECKING:
    import pandas
    import xarray

    from layer_atlas.atlas.layers import Layer

_WORDS = {code: word for word, code in STATUS.items()}

_PLACE = ("layer", "channel", "seed", "variant")
"""Columns that identify the image of a row of a comparison."""


def make_frame(columns: Mapping[str, Any]) -> "pandas.DataFrame":
    """Make a table of columns. Raises UserError without pandas."""
    return _pandas().DataFrame(columns)


def layer_frame(layer: "Layer") -> "pandas.DataFrame":
    """Make the table of `Layer.to_frame`. Raises UserError without pandas."""
    return _pandas().DataFrame(layer_columns(layer))


def layer_columns(layer: "Layer") -> dict[str, Any]:
    """Columns of the table of a layer: a text for all images, or a value for each image."""
    shape = layer.job_shape
    rows = np.indices(shape)
    columns: dict[str, Any] = {
        "model": layer.model.name,
        "layer": layer.name,
        "channel": np.asarray(layer.channels)[rows[0].ravel()],
    }
    # What the atlas knows and what its user says are columns of their own: nothing is hidden.
    own = replace(layer, given={})
    if own.has_names:
        columns["label"] = np.asarray(own.labels, object)[rows[0].ravel()]
    if any(layer.given_labels):
        columns["given_label"] = np.asarray(layer.given_labels, object)[rows[0].ravel()]
    columns["seed"] = np.asarray(layer.seeds)[rows[1].ravel()]
    if layer.variants:
        columns["variant"] = np.asarray(layer.variants, object)[rows[2].ravel()]
    columns["status"] = [_WORDS.get(int(code), "") for code in _per_image(layer.status, shape)]
    for source in layer.label_sources:
        best = layer.dataset(f"words/{source}_label").asstr()[:, 0]
        columns[f"words_{source}_label"] = np.asarray(best, object)[rows[0].ravel()]
    for name in layer.statistics:
        columns[column_name(name)] = _per_image(layer[name], shape)
    return columns


def _per_image(values: Any, shape: tuple[int, ...]) -> Any:
    """Repeat numbers per channel, or per job, for each of its images; returns a flat array."""
    values = np.asarray(values)
    missing = len(shape) - values.ndim
    return np.broadcast_to(values.reshape(values.shape + (1,) * missing), shape).ravel()


def column_name(statistic: str) -> str:
    """Name of a statistic in tables and labelled arrays: netCDF allows no `/` in names."""
    return statistic.replace("/", "_")


def labelled_arrays(layer: "Layer") -> "xarray.Dataset":
    """Make the dataset of `Layer.to_xarray`. Raises UserError without xarray or h5netcdf."""
    try:
        import h5netcdf  # noqa: F401 - what xarray reads netCDF with
        import xarray
    except ImportError as error:
        raise _without("labelled arrays", error) from None

    def opened(group: str) -> "xarray.Dataset":
        # xarray opens the file again by itself: its arrays outlive this atlas.
        return xarray.open_dataset(layer.group.file.filename, engine="h5netcdf", group=group)

    path = layer.group.name.strip("/")
    arrays = opened(path)
    if not any(name.startswith("dataset/") for name in layer.names):
        return arrays
    inner = opened(f"{path}/dataset")
    # Files of several lengths are no numbers; `Layer.dataset_images` decodes them.
    files = [name for name in inner.data_vars if str(name).endswith("_jpeg")]
    inner = inner.drop_vars([*files, *(f"{name}_rank" for name in files)])
    inner.attrs = {}
    return arrays.merge(inner.rename({name: f"dataset_{name}" for name in inner.data_vars}))


def comparison(
    one: Mapping[str, "Layer"], other: Mapping[str, "Layer"], similarity: Mapping[str, Similarity]
) -> "pandas.DataFrame":
    """Make the table of `Atlas.compare`.

    Args:
        one: layers by the names under which they are compared.
        other: those of the other atlas.
        similarity: that of their channels, by the same names, as far as it is known.
    Raises:
        UserError: no layer has images of the same targets in both, or pandas is not installed.
    """
    pd = _pandas()
    shared = [name for name in one if name in other]
    tables = [_compared(name, one[name], other[name], similarity.get(name)) for name in shared]
    tables = [table for table in tables if len(table)]
    if not tables:
        raise UserError(
            "the atlases have no image in common, by layer, channel and seed: one has "
            f"{', '.join(list(one)[:5])}; the other {', '.join(list(other)[:5])}."
        )
    return pd.concat(tables, ignore_index=True)


def _compared(
    name: str, one: "Layer", other: "Layer", similarity: Similarity | None
) -> "pandas.DataFrame":
    left, right = (layer.to_frame().assign(layer=name) for layer in (one, other))
    place = [column for column in _PLACE if column in left and column in right]
    same = [c for c in left if c in right and c not in (*place, "model", "label", "start")]
    table = left[[*place, *same]].merge(right[[*place, *same]], on=place, suffixes=("", "_other"))
    pairs = list(_pairs(one, other, table))
    table["image_rms"] = [_difference(*(layer_pixels)) for layer_pixels, _ in pairs]
    table["response_correlation"] = [_correlation(*responses) for _, responses in pairs]
    # The targets of other layers, such as directions, are none of the channels that are compared.
    of_channels = similarity is not None and one.sampling.noun in ("channel", "class")
    for column, missing in (("by_index", np.nan), ("match", -1), ("match_similarity", np.nan)):
        values = getattr(similarity, column)[table["channel"]] if of_channels else missing
        table["similarity" if column == "by_index" else column] = values
    return table


def _pairs(one: "Layer", other: "Layer", table: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the pixels of both images of each row, and the responses of the layer to them."""
    for row in table.to_dict("records"):
        image = row["channel"], row["seed"], row.get("variant")
        pixels = [layer.pixels(*image) for layer in (one, other)]
        responses = [layer.response(*image) for layer in (one, other)]
        yield pixels, responses


def _difference(one: Any, other: Any) -> float:
    """Root mean square of the difference of two images in [0, 1]; NaN if their sizes differ."""
    if one.shape != other.shape:
        return float("nan")
    return float(np.sqrt(np.mean(np.square((one.astype(float) - other) / 255))))


def _correlation(one: Any, other: Any) -> float:
    """Correlation of two responses (K,); NaN where a layer has none, or another number of them."""
    if one is None or other is None or one.shape != other.shape:
        return float("nan")
    one, other = one - one.mean(), other - other.mean()
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norm if norm > 0 else float("nan")


def joined_frames(layers: Mapping[str, "Layer"]) -> "pandas.DataFrame":
    """Put the tables of all layers below each other."""
    return _pandas().concat([layer.to_frame() for layer in layers.values()], ignore_index=True)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise _without("tables", error) from None
    return pandas


def _without(what: str, error: ImportError) -> UserError:
    return UserError(f"{what} need `pip install 'layer-atlas[notebook]'` ({error}).")

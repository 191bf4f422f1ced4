"""Atlases of any size for figures: collated as always, with responses and pictures made up."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from toys import fill_store, layer_info, make_plan, make_recipe

from layer_atlas.atlas.gather import layer_views
from layer_atlas.atlas.hdf5 import write_atlas
from layer_atlas.store.folder import OutputFolder

FAMILIES = 5


def made_up(
    root: Path,
    layers: Mapping[str, int],
    seeds: tuple[int, ...] = (0,),
    status: Mapping[int, str] | None = None,
    **plan: Any,
) -> Path:
    """Write an atlas of layers of so many channels; returns its file.

    Channel k of a layer belongs to family k % 5: to the images of one family layers answer alike.
    Pictures are noise, lighter from family to family; of equal activations there are none.
    """
    infos = [layer_info(name, count) for name, count in layers.items()]
    settings = {"recipe": make_recipe(), "shard_size": 4096, **plan}
    made = make_plan(*infos, seeds=seeds, **settings)
    folder = OutputFolder(root)
    fill_store(folder, made, status)
    attributes = {"config": "", "versions": '{"torch": "2"}'}
    write_atlas(folder, list(layer_views(folder, made)), attributes, "digest")
    with h5py.File(folder.atlas, "a") as file:
        for number, group in enumerate(file[made.models[0].label].values()):
            _make_up(group, np.random.default_rng(number))
    return folder.atlas


def _make_up(group: h5py.Group, rng: np.random.Generator) -> None:
    """Replace responses, activations and images by numbers that tell channels apart."""
    family = group["channel"][:] % FAMILIES

    def by_family(values: NDArray[Any], name: str) -> NDArray[Any]:
        """One value (or row of the last axis) per family, spread over a dataset's shape."""
        inner = group[name].ndim - values.ndim
        return values[family].reshape(len(family), *(1,) * inner, *values.shape[1:])

    own = rng.normal(size=(FAMILIES, group["response"].shape[-1]))
    responses = 3 * by_family(own, "response") + rng.normal(size=group["response"].shape)
    activations = rng.permutation(group["activation"].size).reshape(group["activation"].shape)
    grey = by_family(40 * np.arange(FAMILIES), "image")
    for name, made in (("response", responses), ("activation", activations)):
        group[name][...] = np.where(np.isfinite(group[name][:]), made, np.nan)
    group["image"][...] = (grey + rng.integers(0, 60, group["image"].shape)).astype(np.uint8)


def add_photographs(atlas: Path, dataset_images: int = 3) -> None:
    """Give an atlas what a sweep with photographs would: a grey JPEG for each is enough."""
    with h5py.File(atlas, "a") as file:
        for model in [item for item in file.values() if isinstance(item, h5py.Group)]:
            for group in model.values():
                _add_photographs(group, dataset_images)


def _add_photographs(group: h5py.Group, dataset_images: int) -> None:
    count, rng = len(group["channel"]), np.random.default_rng(0)
    dataset = group.create_group("dataset")
    dataset.attrs["photographs"] = 500
    files = dataset.create_dataset("top_jpeg", (count, dataset_images), h5py.vlen_dtype(np.uint8))
    for place in np.ndindex(files.shape):
        buffer = io.BytesIO()
        Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(buffer, "JPEG")
        files[place] = np.frombuffer(buffer.getvalue(), np.uint8)
    levels = np.asarray([0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
    answers = np.sort(rng.normal(size=(count, 200)), axis=1)
    dataset["level"], dataset["quantile"] = levels, np.quantile(answers, levels, axis=1).T
    for name, values in (("min", answers[:, 0]), ("max", answers[:, -1])):
        dataset[name] = values.astype(np.float32)
    dataset["mean"], dataset["std"] = answers.mean(axis=1), answers.std(axis=1)
    group["agreement"] = rng.uniform(size=group["activation"].shape).astype(np.float32)
    group["best_seed_index"] = np.full(count, len(group["seed"]) - 1)

"""Parameterizations in real batches and sweeps: bits of their own, files kept, images stored."""

import hashlib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from images import AREA, MASK, PICTURE, PRIOR, WEIGHTS, Prior, find, for_colours
from runs import run_here
from test_invariance import RECIPE
from toys import composed

from layer_atlas.config.config import ModelConfig
from layer_atlas.config.inputs import Inputs
from layer_atlas.config.parameterizations import Cppn, Generator, Maco, NaturalFourier, Pyramid
from layer_atlas.config.recipe import PhotographInit, Recipe, Regularizers
from layer_atlas.datasets.image_files import read_picture
from layer_atlas.errors import UserError
from layer_atlas.imports import source_digest
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import load_network
from layer_atlas.store.folder import OutputFolder, keep_inputs
from layer_atlas.sweep.run import prepare_plan
from layer_atlas.visualization.optimization.renderer import LayerRenderer, Renderer
from layer_atlas.visualization.parameterizations import make_parameterization

HELD_BACK = Regularizers(0.1, 0.1, 0.1, 0.1, blur=0.5, clip=0.5, feature_statistics=3.0)
RECIPES: dict[str, Recipe] = {
    "pyramid": replace(RECIPE, parameterization=Pyramid(), regularizers=HELD_BACK),
    "natural fourier": replace(RECIPE, parameterization=NaturalFourier(), regularizers=HELD_BACK),
    "cppn": replace(RECIPE, parameterization=Cppn(layers=3, units=8)),
    "generator": replace(RECIPE, parameterization=for_colours(PRIOR, 3)),
    "masked maco": replace(RECIPE, parameterization=Maco(), mask=MASK),
    "from a photograph": replace(
        RECIPE, parameterization=Pyramid(), init=PhotographInit(photograph=PICTURE)
    ),
}


def make_bench(recipe: Recipe) -> LayerRenderer:
    network = load_network(ModelConfig("demo"))
    layers = describe_layers(network.module, network.example(recipe.image_size))
    info = next(layer for layer in layers if layer.name == "conv4")
    return Renderer(network, recipe, torch.device("cpu"), find=find).layer(info)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_bits_do_not_depend_on_batch_size_order_or_threads(recipe: Recipe) -> None:
    renderer = make_bench(replace(recipe, image_size=(33, 29)))
    keys = [hashlib.sha256(bytes([number])).hexdigest() for number in range(16)]
    targets = list(range(16))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        reference = renderer.make(keys, targets)
        torch.set_num_threads(1)
        parts = [renderer.make(keys[::-1][i : i + 5], targets[::-1][i : i + 5]) for i in (0, 5, 10)]
    finally:
        torch.set_num_threads(before)
    for name, values in reference.items():
        if name != "trace_step":
            again = np.concatenate([part[name] for part in parts])
            assert again.tobytes() == values[:0:-1].tobytes(), name


def test_an_output_folder_has_all_that_a_recipe_refers_to(tmp_path: Path) -> None:
    names = {"weights": f"3-{WEIGHTS}", "area": AREA, "picture": PICTURE}
    sources = {kind: tmp_path / name for kind, name in names.items()}
    for source in sources.values():
        source.write_bytes(find(source.name).read_bytes())
    prior = replace(for_colours(PRIOR, 3), weights=str(sources["weights"]))
    mask = replace(MASK, area=str(sources["area"]), picture=str(sources["picture"]))
    inputs, folder = Inputs(), OutputFolder(tmp_path / "out")
    recipe = inputs.resolved(replace(RECIPE, parameterization=prior, mask=mask))
    keep_inputs(folder, {reference: str(path) for reference, path in inputs.sources.items()})
    keys = torch.tensor([[1, 2]])
    before = make_parameterization(recipe, 3, keys, find=inputs.find)()
    for source in sources.values():
        source.unlink()
    assert torch.equal(make_parameterization(recipe, 3, keys, find=folder.input)(), before)


def test_a_plan_tells_what_a_generator_is_made_of() -> None:
    plan, _ = prepare_plan(composed(*SWEEP, *chosen("generator")))
    (model,) = plan.models
    config = model.recipe.parameterization
    assert isinstance(config, Generator)
    assert config.source == source_digest(Prior)
    assert plan.inputs[config.weights] == str(find(f"3-{WEIGHTS}"))


def test_what_is_wrong_with_a_mask_is_told_when_a_sweep_is_planned(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_text("no picture")
    mask = ("mask=picture", f"mask.area={tmp_path / 'mask.png'}", f"mask.picture={find(PICTURE)}")
    with pytest.raises(UserError, match=r"mask.png' cannot be read: it is no image"):
        prepare_plan(composed(*SWEEP, *mask))


SWEEP = ("layers=[conv1]", 'channels="0:4"', "image_size=[24,32]", "optimizer.steps=3")


def chosen(choice: str) -> list[str]:
    """Overrides that choose a parameterization."""
    overrides = [f"parameterization={choice}"]
    if choice == "generator":
        overrides += [
            "parameterization.target=images.Prior",
            "parameterization.args={colours: 3}",
            f"parameterization.weights={find('3-' + WEIGHTS)}",
            "parameterization.latent=[12]",
        ]
    return overrides


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["pyramid", "cppn", "generator"])
def test_a_sweep_within_a_mask(choice: str, tmp_path: Path) -> None:
    mask = ("mask=picture", f"mask.area={find(AREA)}", f"mask.picture={find(PICTURE)}")
    assert run_here(tmp_path, *SWEEP, *chosen(choice), *mask, "name=a") == 0
    with h5py.File(tmp_path / "a" / "atlas.h5") as atlas:
        images = atlas["demo/conv1/image"][:, 0] / 255.0
    picture = read_picture(find(PICTURE), 3, (24, 32))[0].transpose(1, 2, 0)
    assert np.abs(images - picture)[:, :, :8].max() < 1 / 255
    assert np.abs(images - picture)[:, :, -8:].mean() > 0.05
    kept = {path.name for path in (tmp_path / "a" / "inputs").iterdir()}
    assert len(kept) == (3 if choice == "generator" else 2)

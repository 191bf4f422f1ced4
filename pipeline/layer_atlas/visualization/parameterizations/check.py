"""Whether images can be made as a recipe says, tried out before a sweep begins."""

import torch

from layer_atlas.config.inputs import Find
from layer_atlas.config.recipe import Recipe
from layer_atlas.errors import UserError
from layer_atlas.visualization import rng
from layer_atlas.visualization.parameterizations import make_parameterization


def check_parameterization(recipe: Recipe, colours: int, find: Find) -> None:
    """Make one image at its start.

    Args:
        recipe: with references in the place of files.
        colours: of the images.
        find: the files that the recipe refers to.
    Raises:
        UserError: a file is no picture, a generator does not do what it should, images are not
            finite, or nothing of them can be changed.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, colours, *recipe.image_size, generator=generator)
    images = make_parameterization(recipe, colours, rng.keys(["0" * 64]), noise, find)
    rendered = images()
    if not torch.isfinite(rendered).all():
        raise UserError(f"parameterization={recipe.parameterization.name} makes no finite images.")
    (parameter,) = images.parameters()
    (gradient,) = torch.autograd.grad((rendered * noise).sum(), parameter)
    if not gradient.any():
        what = "mask.area is black everywhere" if recipe.mask else "they do not depend on it"
        name = recipe.parameterization.name
        raise UserError(f"parameterization={name} cannot change its images: {what}.")

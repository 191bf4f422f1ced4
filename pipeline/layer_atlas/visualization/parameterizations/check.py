"""Trial of a recipe's parameterization before the sweep begins."""

import torch

from layer_atlas.config.inputs import Find
from layer_atlas.config.recipe import Recipe
from layer_atlas.errors import UserError
from layer_atlas.visualization import rng
from layer_atlas.visualization.parameterizations import make_parameterization


def check_parameterization(recipe: Recipe, colours: int, find: Find) -> None:
    """Build one image in its initial state, and check that it is finite and can change.

    Args:
        recipe: the recipe, with references in place of files.
        colours: number of colours of the images.
        find: resolves the files that the recipe refers to.
    Raises:
        UserError: a file is not an image, a generator is unusable, images are not finite, or no
            parameter affects them.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, colours, *recipe.image_size, generator=generator)
    images = make_parameterization(recipe, colours, rng.keys(["0" * 64]), noise, find)
    rendered = images()
    if not torch.isfinite(rendered).all():
        name = recipe.parameterization.name
        raise UserError(f"parameterization={name} renders images that are not finite.")
    (parameter,) = images.parameters()
    # Random weights: for some parameterizations the gradient of a plain sum vanishes.
    (gradient,) = torch.autograd.grad((rendered * noise).sum(), parameter)
    if not gradient.any():
        what = "mask.area is black everywhere" if recipe.mask else "they do not depend on it"
        name = recipe.parameterization.name
        raise UserError(f"parameterization={name} cannot change its images: {what}.")

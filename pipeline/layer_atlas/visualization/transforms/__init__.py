"""Transforms: random, differentiable views of the images, drawn per sample and step.

`draw_views` draws all random numbers of an optimization at once, as one small tensor. `apply_views`
transforms the images by the numbers of one step. The transforms are a chain of parts (`geometry`
has their contract): one warp for everything that moves pixels, then colours, blur, noise and
cutout. A part with neutral ranges takes no numbers and no time.
"""

import torch
from torch import Tensor

from layer_atlas.config.recipe import Transforms
from layer_atlas.visualization.transforms.geometry import Geometry, Part, Size
from layer_atlas.visualization.transforms.photometry import Blur, Colours, Cutout, Noise

_PARTS: tuple[Part, ...] = (Geometry(), Colours(), Blur(), Noise(), Cutout())
"""Parts in the order of image formation: scene, illumination, lens, sensor; then cutout."""


def draw_views(config: Transforms, keys: Tensor, steps: int, size: Size) -> Tensor:
    """Draw the random numbers of all steps at once.

    Args:
        config: the ranges.
        keys: (B, 2) int64, random keys of the jobs.
        steps: number of steps.
        size: height and width of the images in pixels.
    Returns: (steps, B, P) float32 on the device of the keys; the meaning of the P numbers depends
        on the active parts and is internal to `apply_views`.
    """
    on = [part for part in _PARTS if part.columns(config)]
    # Drawn on the CPU, where uniform numbers become maps with the same bits for every device.
    drawn = [part.draw(config, keys.cpu(), steps, size) for part in on]
    numbers = torch.cat([torch.empty(len(keys), steps, 0), *drawn], dim=2)
    return numbers.transpose(0, 1).contiguous().to(keys.device)


def apply_views(config: Transforms, images: Tensor, view: Tensor) -> Tensor:
    """Transform the images to their views at one step.

    Args:
        config: the ranges that the view was drawn from.
        images: (B, C, H, W) in [0, 1].
        view: (B, P), one step of `draw_views`.
    Returns: (B, C, H, W); colours and noise may leave [0, 1], because clamping would remove their
        gradient.
    """
    columns = [part.columns(config) for part in _PARTS]
    for part, numbers in zip(_PARTS, torch.split(view, columns, dim=1), strict=True):
        if numbers.shape[1]:
            images = part.apply(config, images, numbers)
    return images

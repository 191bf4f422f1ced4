"""Transforms: random, differentiable views of the images, drawn per sample and step.

`draw_views` draws all that is random of a whole ascent at once, as one small tensor of numbers;
`see` shows the images through the numbers of one step. What happens on the way is a chain of parts
(`part` has their contract): one warp for all that moves pixels, then colours, blur, noise and a
hole. A part whose ranges are neutral takes no number and no time.
"""

import torch
from torch import Tensor

from layer_atlas.config.recipe import Transforms
from layer_atlas.visualization.transforms.geometry import Geometry
from layer_atlas.visualization.transforms.part import Part, Size
from layer_atlas.visualization.transforms.photometry import Blur, Colours, Cutout, Noise

_PARTS: tuple[Part, ...] = (Geometry(), Colours(), Blur(), Noise(), Cutout())
"""As light would meet them: scene, illumination, lens, sensor; the hole is last and stays grey."""


def draw_views(config: Transforms, keys: Tensor, steps: int, size: Size) -> Tensor:
    """Draw the random numbers of all steps at once.

    Args:
        config: the ranges.
        keys: (B, 2) int64, random keys of the jobs.
        steps: number of steps.
        size: height and width of the images in pixels.
    Returns: (steps, B, P) float32 on the device of the keys; what the P numbers mean depends on
        what is on, and concerns `see` alone.
    """
    on = [part for part in _PARTS if part.columns(config)]
    drawn = [part.draw(config, keys.cpu(), steps, size) for part in on]
    numbers = torch.cat([torch.empty(len(keys), steps, 0), *drawn], dim=2)
    return numbers.transpose(0, 1).contiguous().to(keys.device)


def see(config: Transforms, images: Tensor, view: Tensor) -> Tensor:
    """The images as the network sees them at one step.

    Args:
        config: the ranges that the view was drawn from.
        images: (B, C, H, W) in [0, 1].
        view: (B, P), one step of `draw_views`.
    Returns: (B, C, H, W); colours and noise may leave [0, 1], as a clamp would take their gradient.
    """
    columns = [part.columns(config) for part in _PARTS]
    for part, numbers in zip(_PARTS, torch.split(view, columns, dim=1), strict=True):
        if numbers.shape[1]:
            images = part.apply(config, images, numbers)
    return images

"""The overlay: the photograph where the map is strong, a pale grey print of it where not."""

import numpy as np
from numpy.typing import NDArray

from layer_atlas.presentation.montages.evidence_pages import _WHITE as PAPER
from layer_atlas.presentation.montages.evidence_pages import FADED, overlay


def red(height: int = 60, width: int = 40) -> NDArray[np.uint8]:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = 240
    return pixels


PRINT = round(FADED * 80 + (1 - FADED) * PAPER)
"""The grey of `red` where it is faded."""


def test_full_map_is_the_photograph_and_empty_map_its_pale_print() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 40, 3), np.uint8)
    assert np.array_equal(overlay(pixels, np.full((60, 40), 200, np.uint8)), pixels)
    assert (overlay(red(), np.zeros((60, 40), np.uint8)) == PRINT).all()


def test_colours_show_where_the_map_is_and_fade_where_it_is_not() -> None:
    saliency = np.zeros((60, 40), np.uint8)
    saliency[:20] = 255
    shown = overlay(red(), saliency)
    assert shown.shape == (60, 40, 3)
    assert shown.dtype == np.uint8
    assert shown[0, 5].tolist() == [240, 0, 0]
    assert (shown[40:] == PRINT).all()
    redness = shown[:, 0, 0].astype(int) - shown[:, 0, 1]
    assert (np.diff(redness) <= 0).all()


def test_one_bright_pixel_is_wide_enough_to_see() -> None:
    saliency = np.zeros((60, 40), np.uint8)
    saliency[30, 20] = 10
    shown = overlay(red(), saliency)
    assert shown[30, 20].tolist() == [240, 0, 0]
    assert ((shown[..., 0].astype(int) - shown[..., 1]) > 100).sum() > 9
    assert (shown[0] == PRINT).all()


def test_rows_and_columns_are_smoothed_alike() -> None:
    saliency = np.random.default_rng(1).integers(0, 256, (30, 30), np.uint8)
    pixels = np.random.default_rng(2).integers(0, 256, (30, 30, 3), np.uint8)
    turned = overlay(pixels.transpose(1, 0, 2), saliency.T)
    assert np.array_equal(turned.transpose(1, 0, 2), overlay(pixels, saliency))

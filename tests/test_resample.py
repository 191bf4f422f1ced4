"""Resizing: what Pillow does, the same for every sample, and a gradient that is its transpose."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.resample import resampling, resized


@pytest.mark.parametrize("size", [(7, 30), (40, 11), (16, 24), (33, 50)])
def test_pictures_are_resized_as_pillow_does(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).random((16, 24)).astype(np.float32)
    expected = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
    found = resized(torch.from_numpy(pixels)[None, None], size)[0, 0]
    assert np.abs(found.numpy() - np.asarray(expected)).max() < 1e-5


def test_rows_sum_to_1_and_the_same_size_is_left_alone() -> None:
    for before, after in ((5, 17), (17, 5), (9, 9)):
        sums = resampling(before, after, torch.device("cpu")).sum(dim=1)
        assert torch.allclose(sums, torch.ones(after))
    images = torch.rand(2, 3, 6, 8)
    assert resized(images, (6, 8)) is images


def test_a_sample_is_resized_alike_in_any_batch() -> None:
    images = torch.rand(16, 3, 20, 24)
    together = resized(images, (31, 13))
    assert torch.equal(resized(images[5:13], (31, 13)), together[5:13])

"""Tasks: what a device cannot do at once is done in parts."""

import pytest
import torch
from torch import Tensor

from layer_atlas.models.activations import ChannelActivations
from layer_atlas.sweep.tasks.dataset_statistics import observe_in_parts


def see(views: Tensor) -> dict[str, ChannelActivations]:
    """A layer that answers with the first pixel, on a device that holds three views."""
    if len(views) > 3:
        raise torch.OutOfMemoryError("a small device")
    first = views[:, 0, 0].float()
    return {"layer": ChannelActivations(first, first + 1, first.long())}


@pytest.mark.parametrize("n", [1, 3, 4, 13, 64])
def test_views_that_do_not_fit_are_shown_in_halves(n: int) -> None:
    views = torch.randint(0, 256, (n, 4, 4, 3), dtype=torch.uint8)
    answer = observe_in_parts(see, views)["layer"]
    assert torch.equal(answer.mean, views[:, 0, 0].float())
    assert torch.equal(answer.peak, answer.mean + 1)
    assert torch.equal(answer.place, answer.mean.long())


def test_a_view_that_does_not_fit_alone_is_an_error() -> None:
    def full(views: Tensor) -> dict[str, ChannelActivations]:
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError, match="full"):
        observe_in_parts(full, torch.zeros(4, 4, 4, 3, dtype=torch.uint8))

"""Evidence: known answers on responses and pictures made by hand."""

import math

import pytest
import torch
from torch import Tensor

from pipeline.evidence import agreement, high_frequency_share, make_reference

N, K = 200, 12


def photographs(seed: int = 0) -> Tensor:
    return torch.randn(N, K, generator=torch.Generator().manual_seed(seed)).exp()


def by_definition(photos: Tensor, responses: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
    """Agreement and rank, one image and one channel at a time, the target cut out."""
    mean, std = photos.double().mean(0), photos.double().std(0)
    z, images = (photos - mean) / std, (responses - mean) / std
    found = []
    for image, c in zip(images, channels.tolist(), strict=True):
        keep = [k for k in range(photos.shape[1]) if k != c]
        templates = [z[photos[:, k].topk(9).indices].mean(0)[keep] for k in range(len(mean))]
        cosines = [torch.cosine_similarity(image[keep], t, dim=0).item() for t in templates]
        found.append((cosines[c], 1 + sum(cosine > cosines[c] for cosine in cosines)))
    return torch.tensor([f[0] for f in found]), torch.tensor([f[1] for f in found])


def test_it_is_what_it_is_defined_as() -> None:
    photos, channels = photographs(), torch.arange(K).repeat(3)
    responses = photographs(1)[: len(channels)]
    wanted = by_definition(photos, responses, channels)
    got = agreement(make_reference(photos), responses, channels)
    torch.testing.assert_close(got[0], wanted[0].float(), rtol=1e-5, atol=1e-6)
    assert got[1].tolist() == wanted[1].tolist()


def test_a_channels_own_photographs_agree_and_rank_first() -> None:
    photos = photographs()
    strongest = torch.stack([photos[photos[:, k].topk(9).indices].mean(0) for k in range(K)])
    agrees, rank = agreement(make_reference(photos), strongest, torch.arange(K))
    assert (agrees > 0.9999).all()
    assert rank.tolist() == [1] * K


def test_the_photographs_of_another_channel_rank_behind_it() -> None:
    photos = photographs()
    strongest = torch.stack([photos[photos[:, k].topk(9).indices].mean(0) for k in range(K)])
    agrees, rank = agreement(make_reference(photos), strongest, torch.arange(K).roll(1))
    assert (agrees < 0.9).all()
    assert (rank >= 2).all()


def test_the_target_channel_does_not_count() -> None:
    photos, channels = photographs(), torch.arange(K)
    responses = photographs(1)[:K]
    reference = make_reference(photos)
    shouted = responses.clone()
    shouted[channels, channels] = 1e4
    for quiet, loud in zip(
        agreement(reference, responses, channels),
        agreement(reference, shouted, channels),
        strict=True,
    ):
        assert torch.equal(quiet, loud)


def test_a_channel_that_never_varies_does_no_harm() -> None:
    photos, channels = photographs(), torch.arange(K)
    responses = photographs(1)[:K]
    # 0.1 is not a binary fraction: the mean of many is not quite 0.1.
    dull = torch.cat([photos, torch.full((N, 1), 0.1)], dim=1)
    moved = torch.cat([responses, torch.full((K, 1), 5.0)], dim=1)
    plain, _ = agreement(make_reference(photos), responses, channels)
    reference = make_reference(dull)
    assert reference.std[K] == 0
    agrees, rank = agreement(reference, moved, channels)
    torch.testing.assert_close(agrees, plain)
    own, _ = agreement(reference, moved[:1], torch.tensor([K]))
    assert torch.isfinite(own).all()
    assert (rank <= K + 1).all()


def test_an_image_that_is_not_finite_comes_last() -> None:
    responses = torch.full((1, K), math.nan)
    agrees, rank = agreement(make_reference(photographs()), responses, torch.tensor([3]))
    assert agrees.isnan().all()
    assert rank.item() > K


def test_fewer_photographs_than_stand_for_a_channel_are_refused() -> None:
    with pytest.raises(ValueError, match="9 photographs"):
        make_reference(photographs()[:8])


def test_batch_mates_do_not_matter() -> None:
    reference = make_reference(photographs())
    responses, channels = photographs(1)[:33], torch.arange(33) % K
    together = agreement(reference, responses, channels)
    alone = [agreement(reference, responses[i : i + 1], channels[i : i + 1]) for i in range(33)]
    torch.testing.assert_close(together[0], torch.cat([a[0] for a in alone]))
    assert torch.equal(together[1], torch.cat([a[1] for a in alone]))
    pixels = torch.randint(0, 256, (5, 24, 32, 3)).to(torch.uint8)
    shares = torch.cat([high_frequency_share(pixels[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(high_frequency_share(pixels), shares)


def grating(across: float, down: float, height: int = 64, width: int = 64) -> Tensor:
    """A grey wave of so many cycles per pixel: (1, H, W, 3) uint8."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    wave = 128 + 100 * torch.cos(2 * math.pi * (across * x + down * y))
    return wave.round().to(torch.uint8)[None, ..., None].expand(1, height, width, 3)


@pytest.mark.parametrize(
    ("picture", "share"),
    [
        (grating(0.125, 0.0), 0.0),
        (grating(0.0, 0.375), 1.0),
        (grating(0.1875, 0.1875), 1.0),  # fine by its length, though not along either axis
        (grating(0.125, 0.0, 32, 64), 0.0),
        (grating(0.375, 0.0, 32, 64), 1.0),
    ],
)
def test_a_grating_is_fine_or_coarse(picture: Tensor, share: float) -> None:
    assert high_frequency_share(picture).item() == pytest.approx(share, abs=1e-3)


def test_an_image_of_one_grey_has_no_fine_structure() -> None:
    assert high_frequency_share(torch.full((2, 33, 33, 3), 77, dtype=torch.uint8)).tolist() == [
        0,
        0,
    ]

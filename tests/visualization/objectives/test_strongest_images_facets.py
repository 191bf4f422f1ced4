"""Facets: clusters of a channel's strongest images, and an image for each."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import colour_reader, layer_of, make_recipe, surroundings

from layer_atlas.config.objectives import ChannelObjective, FacetsObjective
from layer_atlas.config.objectives import Objective as Record
from layer_atlas.config.parameterizations import Pixel
from layer_atlas.models.load import Network
from layer_atlas.visualization.objectives import make_objective
from layer_atlas.visualization.objectives.strongest_images import clusters, cosine, facet_directions
from layer_atlas.visualization.optimization.renderer import Renderer
from tests.visualization.objectives.test_strongest_images import assert_jobs_are_apart

RED, GREEN, BLUE = 0, 1, 2


# --- clusters ------------------------------------------------------------------------------------


def blobs(sizes: list[int]) -> tuple[Tensor, np.ndarray]:
    noise = np.random.default_rng(0)
    truth = noise.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = 5.0 * np.eye(len(sizes), 8)
    return torch.from_numpy(centres[truth] + 0.3 * noise.normal(size=(len(truth), 8))), truth


@pytest.mark.parametrize("seed", range(3))
def test_clusters_are_found_and_numbered_from_the_largest(seed: int) -> None:
    features, truth = blobs([4, 12, 7])
    found = clusters(features, 3, seed)
    assert found.tolist() == [{1: 1, 2: 2, 0: 3}[number] for number in truth.tolist()]


def test_of_equally_large_clusters_that_of_the_strongest_image_is_first() -> None:
    features = torch.tensor([[0.0], [9.0], [0.1], [9.1]])
    assert clusters(features, 2, 0).tolist() == [1, 2, 1, 2]
    assert clusters(features.flip(0), 2, 0).tolist() == [1, 2, 1, 2]


def test_fewer_different_images_than_facets_leave_some_without_images() -> None:
    features = torch.eye(2, 3).repeat_interleave(3, dim=0)
    assert clusters(features, 3, 0).tolist() == [1, 1, 1, 2, 2, 2]
    members = torch.tensor([1, 1, 1, 1, 1, 2])
    directions = facet_directions(features, members, 3)
    assert directions.norm(dim=1).tolist() == pytest.approx([1.0, 1.0, 0.0])
    assert directions[0].tolist() == pytest.approx([3 / 13**0.5, 2 / 13**0.5, 0.0])
    assert cosine(torch.ones(1, 3), directions[2:]).item() == 0.0


# --- references and surrogate --------------------------------------------------------------------


def facets_of(n_facets: int = 2) -> tuple[object, nn.Module]:
    network = nn.Sequential(colour_reader())
    around = surroundings(
        layer_of(network, "0"), activations=lambda images: [network(images).flatten(2)]
    )
    return make_objective(FacetsObjective(facets=n_facets, top=6), around), network


def half_and_half(n: int = 6) -> Tensor:
    """Images (1, n, 3, 16, 16) of red things that are also green, or also blue, on the other."""
    images = torch.zeros(1, n, 3, 16, 16)
    for number in range(n):
        also, ground = (GREEN, BLUE) if number in (1, 2, 4) else (BLUE, GREEN)
        images[0, number, ground] = 1.0
        images[0, number, ground, 4:12, 4:12] = 0.0
        images[0, number, also, 4:12, 4:12] = 0.8
        images[0, number, RED, 4:12, 4:12] = 0.9 - 0.01 * number
    return images


def test_images_are_clustered_by_what_is_where_the_target_responds() -> None:
    objective, _ = facets_of()
    mean, directions, members = objective.references(half_and_half(), torch.tensor([RED]))
    assert members.tolist() == [[1, 2, 2, 1, 2, 1]]
    assert mean.shape == (1, 1, 3)
    assert directions.shape == (1, 2, 3)
    # The ground, which is as large, counts for nothing; nor does the target itself.
    assert torch.sign(directions[0]).tolist() == [[0.0, -1.0, 1.0], [0.0, 1.0, -1.0]]
    assert objective.records((mean, directions, members)) == {"facet": members}


def test_the_surrogate_adds_the_cosine_with_each_images_own_facet() -> None:
    objective, network = facets_of()
    references = objective.references(half_and_half(), torch.tensor([RED]))
    samples = [part.repeat_interleave(2, dim=0) for part in references]
    both = half_and_half()[0, [0, 0]]  # an image of the first facet, for both variants
    activations = [network(both).flatten(2), *samples]
    score, surrogate = objective.surrogate(activations, torch.tensor([RED, RED]))
    assert score[0] == score[1] == activations[0][0, RED].mean()
    gained = ((surrogate - score) / (4.0 * score)).tolist()
    assert gained == pytest.approx([1.0, -1.0], abs=1e-3)


def test_references_of_a_job_do_not_depend_on_the_others() -> None:
    objective, _ = facets_of()
    images = torch.rand(5, 6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 1, 0])
    assert_jobs_are_apart(objective, images, targets)


def test_without_photographs_there_are_no_facets() -> None:
    with pytest.raises(ValueError, match="needs dataset images"):
        facets_of()[0].references(None, torch.tensor([0]))


# --- images --------------------------------------------------------------------------------------


def made(objective: Record) -> dict[str, np.ndarray]:
    network = nn.Sequential(colour_reader())
    recipe = replace(
        make_recipe(Pixel(), steps=150, learning_rate=0.2, image_size=16), objective=objective
    )
    loaded = Network("toy", "toy", network, (0.0,) * 3, (1.0,) * 3, 16, "0" * 64, ())
    bench = Renderer(loaded, recipe, torch.device("cpu")).layer(layer_of(network, "0"))
    key = hashlib.sha256(b"0").hexdigest()
    return bench.make([key], [RED], dataset_images=half_and_half())


@pytest.mark.slow
def test_each_image_excites_the_channel_and_shows_its_own_facet() -> None:
    plain, arrays = made(ChannelObjective()), made(FacetsObjective(facets=2, top=6, weight=1.0))
    assert arrays["facet"].tolist() == [[1, 2, 2, 1, 2, 1]]
    assert (arrays["activation"][0] > 0.7 * plain["activation"][0]).all()
    blue, green = arrays["image"][0].reshape(2, -1, 3).mean(axis=1) / 255.0
    assert green[GREEN] > green[BLUE] + 0.1
    assert blue[BLUE] > blue[GREEN] + 0.1


def test_the_recipe_says_that_images_are_made_by_photographs() -> None:
    recipe = replace(make_recipe(), objective=FacetsObjective(layers=("conv2",)))
    assert "facets by photographs (facet 1, facet 2, facet 3, facet 4)" in recipe.summary()
    said = recipe.describe()
    assert "cluster of its strongest photographs" in said
    assert "36 photographs per channel" in said
    assert "4 clusters" in said
    assert "in conv2" in said
    assert "Goh et al. 2021" in said

"""Images that a network makes of latents."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from images import KEYS, MASK, PRIOR, Prior, find, for_colours, hand_set, images_of, only_parameter
from safetensors.torch import save_file
from torch import Tensor, nn
from toys import make_recipe

from layer_atlas.config.inputs import Inputs
from layer_atlas.config.parameterizations import Fourier, Generator, Mask
from layer_atlas.config.recipe import SpectrumInit
from layer_atlas.errors import UserError
from layer_atlas.imports import source_digest
from layer_atlas.models.pixels import resized
from layer_atlas.visualization.parameterizations import check_parameterization
from layer_atlas.visualization.parameterizations.generator import GeneratorImages, with_source
from tests.visualization.parameterizations.test_parameterizations import climb, climber_of


def generator_images(**changes: Any) -> GeneratorImages:
    config = for_colours(replace(PRIOR, **changes), 3)
    assert isinstance(config, Generator)
    return GeneratorImages(config, (3, 16, 20), KEYS, find)


def by_hand() -> Prior:
    prior = Prior(3).eval()
    prior.load_state_dict(hand_set(prior))
    return prior


@pytest.mark.parametrize("step", [0.25, 1.0])
@pytest.mark.parametrize("latent", [(12,), (12, 1, 1)], ids=str)
def test_images_are_what_the_generator_makes_of_the_latents(
    latent: tuple[int, ...], step: float
) -> None:
    images = generator_images(latent=latent, step=step)
    with torch.no_grad():
        made = by_hand()((images.latents[:, :12] * step).view(-1, *latent))
    assert torch.allclose(images(), resized(made, (16, 20)) / 2 + 0.5, atol=1e-5)


def test_the_range_of_its_output_becomes_black_and_white() -> None:
    usual, half = generator_images()(), generator_images(output=(-1.0, 0.0))()
    assert torch.allclose(half, (2 * usual).clamp(max=1.0), atol=1e-5)
    assert (half == 1).any()


def test_latents_start_as_normal_numbers_within_bounds() -> None:
    free = generator_images(bounds=None, step=0.5).latents.detach()[:, :12] * 0.5
    assert float(free.std()) == pytest.approx(1.0, rel=0.15)
    assert free.abs().max() > 1.5
    bound = generator_images(bounds=(-0.5, 1.5), step=0.5).latents.detach()[:, :12] * 0.5
    assert torch.allclose(bound, free.clamp(-0.5, 1.5))


def test_latents_that_left_their_bounds_are_brought_back() -> None:
    images = generator_images(bounds=(0.0, 3.0), step=0.5)
    with torch.no_grad():
        images.latents[0, :3] = torch.tensor([-1.0, 4.0, 9.0])
    images.constrain_()
    assert images.latents[0, :3].tolist() == [0.0, 4.0, 6.0]
    free = generator_images(bounds=None)
    with torch.no_grad():
        free.latents.mul_(100)
    before = free.latents.clone()
    free.constrain_()
    assert torch.equal(free.latents, before)


@pytest.mark.parametrize("mask", [None, MASK], ids=["bare", "masked"])
def test_latents_that_climb_stay_within_their_bounds(mask: Mask | None) -> None:
    config = replace(PRIOR, bounds=(-0.2, 0.3), step=0.5)
    loop = climber_of(config, (3, 16, 16), mask)
    climb(loop, KEYS)
    assert loop._batch is not None
    latents = only_parameter(loop._batch.images).detach() * config.step
    assert float(latents.min()) == pytest.approx(-0.2)
    assert float(latents.max()) == pytest.approx(0.3)


def test_the_generator_is_frozen_and_no_parameter_of_the_images() -> None:
    images = generator_images()
    assert only_parameter(images) is images.latents
    before = images().detach()
    images().sum().backward()
    assert images.latents.grad is not None
    assert torch.equal(images(), before)


class Moody(nn.Module):
    """Would be another one in training mode, and another time."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, latents: Tensor) -> Tensor:
        made: Tensor = self.drop(self.norm(latents))
        return made


def test_it_runs_in_eval_mode(tmp_path: Path) -> None:
    save_file(Moody().state_dict(), tmp_path / "moody.safetensors")
    config = Generator(
        target="tests.visualization.parameterizations.test_generator.Moody",
        weights="moody.safetensors",
        latent=(3, 16, 16),
    )
    images = GeneratorImages(config, (3, 16, 16), KEYS, lambda reference: tmp_path / reference)
    latents = images.latents.detach()[:, : 3 * 256].view(-1, 3, 16, 16) * config.step
    assert torch.allclose(images(), (latents / 2 + 0.5).clamp(0, 1), atol=1e-4)


def test_no_latents_are_known_for_a_picture() -> None:
    with pytest.raises(ValueError, match="noise alone"):
        images_of(PRIOR, init=SpectrumInit())


# --- identity ---


def test_the_code_that_makes_it_is_part_of_the_recipe() -> None:
    told = with_source(PRIOR)
    assert isinstance(told, Generator)
    assert told.source == source_digest(Prior)
    assert with_source(Fourier()) == Fourier()


def test_weights_are_part_of_the_recipe_wherever_they_lie(tmp_path: Path) -> None:
    def resolved(name: str, data: bytes) -> Generator:
        path = tmp_path / name
        path.write_bytes(data)
        recipe = Inputs().resolved(make_recipe(replace(PRIOR, weights=str(path))))
        assert isinstance(recipe.parameterization, Generator)
        return recipe.parameterization

    assert resolved("a.pth", b"weights") == resolved("b.pth", b"weights")
    assert resolved("a.pth", b"weights") != resolved("b.pth", b"others")


def test_code_that_changed_since_the_plan_is_told() -> None:
    planned = with_source(PRIOR)
    assert isinstance(planned, Generator)
    generator_images(source=planned.source)
    with pytest.raises(UserError, match=r"images\.Prior.*not what the sweep was planned with"):
        generator_images(source="0" * 64)


# --- mistakes ---


def failing() -> nn.Module:
    raise RuntimeError("no luck")


def flat(colours: int) -> nn.Module:
    return nn.Linear(12, colours)


def no_network() -> Callable[[], None]:
    return lambda: None


MISTAKES: list[tuple[dict[str, Any], list[str]]] = [
    ({"target": "images.Pior"}, ["parameterization.target 'images.Pior'", "cannot be imported"]),
    ({"target": "images.KEYS"}, ["'images.KEYS'", "not a callable"]),
    (
        {"target": "tests.visualization.parameterizations.test_generator.failing", "args": None},
        ["failed", "no luck"],
    ),
    (
        {"target": "tests.visualization.parameterizations.test_generator.no_network", "args": None},
        ["not a torch.nn.Module"],
    ),
    ({"args": {"colours": 4}}, ["do not fit", "'images.Prior'"]),
    ({"latent": (11,)}, ["does not take latents of [2, 11]", "parameterization.latent"]),
    (
        {
            "target": "tests.visualization.parameterizations.test_generator.flat",
            "weights": "flat.pth",
        },
        ["returns [2, 3]", "[2, 3, height"],
    ),
    ({"weights": "part.pth"}, ["part.pth", "lack tensors", "details.bias"]),
    ({"weights": "mask.png"}, ["mask.png", "not a weights file"]),
]


@pytest.mark.parametrize(("changes", "words"), MISTAKES, ids=[words[0] for _, words in MISTAKES])
def test_mistakes_are_told_before_anything_is_made(
    changes: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    def find_also(reference: str) -> Path:
        if reference == "flat.pth":
            torch.save(flat(3).state_dict(), tmp_path / reference)
        elif reference == "part.pth":
            torch.save({"spots.bias": torch.zeros(4)}, tmp_path / reference)
        elif reference == "mask.png":
            (tmp_path / reference).write_bytes(b"no weights")
        else:
            return find(reference)
        return tmp_path / reference

    config = replace(for_colours(PRIOR, 3), **changes)
    with pytest.raises(UserError) as told:
        check_parameterization(make_recipe(config), 3, find_also)
    assert all(word in str(told.value) for word in words), told.value


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latent": ()}, "latent must not be empty"),
        ({"latent": (8, 0)}, r"latent\[1\] must be 1 or more, not 0"),
        ({"latent": (2**12, 2**12, 2)}, "latent must be 16777216 numbers at most"),
        ({"target": ""}, "target must not be empty"),
        ({"output": (1.0, 1.0)}, "output must be in ascending order"),
        ({"bounds": (3.0, -3.0)}, "bounds must be in ascending order"),
        ({"step": 0.0}, "step must be above 0"),
    ],
)
def test_records_out_of_range_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(PRIOR, **changes)

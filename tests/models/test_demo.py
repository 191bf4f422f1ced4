"""The packaged demo network: its size, its determinism, and that it knows its textures."""

import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from layer_atlas.models.demo import CLASSES, INPUT_SIZE, MEAN, STD, DemoNet, demo_network

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def textures() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPTS))
    try:
        import demo_textures

        yield demo_textures
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def network() -> DemoNet:
    return demo_network()


@pytest.fixture(scope="module")
def samples(textures: ModuleType) -> tuple[Tensor, Tensor]:
    """Five fresh, normalized samples of every class, and their labels."""
    batch = textures.draw(5, torch.Generator().manual_seed(987_654_321))
    return normalized(batch.images), batch.labels


def normalized(images: Tensor) -> Tensor:
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def convolutions(network: DemoNet) -> dict[str, nn.Conv2d]:
    return {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}


def test_small_cnn_with_enough_to_show(network: DemoNet) -> None:
    convs = convolutions(network)
    assert len(convs) >= 5
    assert sum(conv.out_channels for conv in convs.values()) >= 200
    assert len((files("layer_atlas") / "data" / "demo.safetensors").read_bytes()) <= 2 * 2**20
    assert len(CLASSES) >= 24
    assert len(set(CLASSES)) == len(CLASSES)


def test_frozen_ready_to_use(network: DemoNet) -> None:
    assert not network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert all(bool(torch.isfinite(p).all()) for p in network.parameters())


def test_same_logits_every_time_and_input_untouched(network: DemoNet) -> None:
    images = torch.rand(4, 3, INPUT_SIZE, INPUT_SIZE, generator=torch.Generator().manual_seed(1))
    before = images.clone()
    first, second = network(images), demo_network()(images)
    assert first.shape == (4, len(CLASSES))
    assert torch.equal(first, second)
    assert torch.equal(images, before)


def test_other_image_sizes_pass(network: DemoNet) -> None:
    assert network(torch.zeros(1, 3, 128, 160)).shape == (1, len(CLASSES))


def test_textures_are_the_classes_and_images(textures: ModuleType) -> None:
    assert tuple(textures.TEXTURES) == CLASSES
    batch = textures.draw(1, torch.Generator().manual_seed(2))
    assert batch.images.shape == (len(CLASSES), 3, INPUT_SIZE, INPUT_SIZE)
    assert batch.images.min() >= 0
    assert batch.images.max() <= 1
    assert sorted(batch.labels.tolist()) == list(range(len(CLASSES)))


def test_textures_follow_their_seed(textures: ModuleType) -> None:
    a, b, c = (textures.draw(1, torch.Generator().manual_seed(seed)).images for seed in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@torch.inference_mode()
def test_names_fresh_samples(network: DemoNet, samples: tuple[Tensor, Tensor]) -> None:
    images, labels = samples
    assert (network(images).argmax(1) == labels).float().mean() >= 0.9


@torch.inference_mode()
def test_no_channel_is_silent(network: DemoNet, samples: tuple[Tensor, Tensor]) -> None:
    peaks: dict[str, Tensor] = {}

    def note(name: str, output: Tensor) -> None:
        peaks[name] = output.amax((0, 2, 3))

    hooks = [
        conv.register_forward_hook(lambda _m, _i, output, name=name: note(name, output))
        for name, conv in convolutions(network).items()
    ]
    try:
        network(samples[0])
    finally:
        for hook in hooks:
            hook.remove()
    assert {name: int((peak <= 0).sum()) for name, peak in peaks.items()} == dict.fromkeys(peaks, 0)

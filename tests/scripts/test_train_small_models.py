"""The script that trains small networks: they learn, follow their seed, and can be planned."""

import json
from pathlib import Path

import pytest
import torch
import train_small_models as script
from judges.networks import JudgeNetwork
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from layer_atlas.models.demo import CLASSES

SETTINGS = script.Settings(seed=3, blocks=1, batch=16, replays=3, learning_rate=2e-3)


@pytest.fixture(autouse=True)
def flat_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dark and bright images, which cost nothing to draw."""

    def drawings(kind: script.Kind, seed: int, blocks: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(64) % 2
        images = torch.zeros(64, 3, kind.size, kind.size, dtype=torch.uint8)
        images[labels == 1] = 220
        return images, labels

    monkeypatch.setattr(script, "drawings", drawings)


@pytest.mark.slow
@pytest.mark.parametrize("name", script.KINDS)
def test_a_network_learns_and_follows_its_seed(name: str) -> None:
    kind = script.KINDS[name]
    first, second = (script.train(kind, SETTINGS) for _ in range(2))
    assert script.accuracy(first, kind, 0, 1) == 1.0
    tensors = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in tensors)


@pytest.mark.parametrize("name", script.KINDS)
def test_a_judge_reads_the_weights_at_the_size_of_the_network(name: str, tmp_path: Path) -> None:
    kind, file = script.KINDS[name], tmp_path / "weights.safetensors"
    network = kind.build().eval()
    save_file(network.state_dict(), file)
    entry = f"name: {name}, target: train_small_models.{name}, weights: {file}"
    given = f"mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25], input_size: {kind.size}"
    judge = JudgeNetwork(f"{{{entry}, {given}}}", output=True)
    pixels = torch.full((1, kind.size, kind.size, 3), 96, dtype=torch.uint8)
    with torch.no_grad():
        expected = network(script.normalise(pixels.movedim(3, 1) / 255))
    assert judge.n_features == len(CLASSES)
    assert judge(pixels).mean == pytest.approx(expected.numpy(), abs=1e-4)


def test_held_out_drawings_have_their_classes_beside_them(tmp_path: Path) -> None:
    script.write_drawings(tmp_path, 1, script.HELD_OUT)
    classes = json.loads((tmp_path / "classes.json").read_text())
    assert sorted(classes.values()) == list(range(len(CLASSES)))
    for name, label in classes.items():
        assert CLASSES[label] in name
        with Image.open(tmp_path / name) as image:
            assert image.size == (96, 96)

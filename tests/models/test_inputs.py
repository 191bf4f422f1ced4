"""Inputs of networks: small images, other bands, fixed values, mappings, arguments by keyword."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import driven_here, run_here
from safetensors.torch import save_file
from torch import Tensor, nn
from truths import TOLERANCE, built, hooked, made, normalized, planned

import layer_atlas
from layer_atlas.config.config import ModelConfig
from layer_atlas.errors import UnusableFile, UserError
from layer_atlas.models.inputs import inputs_of
from layer_atlas.models.load import load_network

SIZE = 16


class Timed(nn.Module):
    """Takes a time and a table of numbers beside the images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.time = nn.Conv2d(3, 6, 3, stride=2), nn.Embedding(12, 6)
        self.norm, self.last = nn.BatchNorm2d(6), nn.Conv2d(6, 5, 3)

    def forward(self, x: Tensor, timestep: Tensor, table: Any = None, scale: float = 1.0) -> Tensor:
        mapped = self.norm(self.stem(x)) + self.time(timestep)[:, :, None, None]
        if table is not None:
            mapped = mapped + scale * table.mean(dim=(1, 2)).view(-1, 1, 1, 1)
        return self.last(torch.relu(mapped)).mean((2, 3))


class Mapped(Timed):
    """Takes all in one mapping."""

    def forward(self, batch: Mapping[str, Any]) -> Tensor:  # type: ignore[override]
        return super().forward(batch["image"], batch["timestep"])


class ByKeyword(Timed):
    """Takes its arguments by keyword alone, images last."""

    def forward(self, *, timestep: Any = None, pixel_values: Tensor) -> Tensor:  # type: ignore[override]
        timestep = torch.zeros(len(pixel_values)).long() if timestep is None else timestep
        return super().forward(pixel_values, timestep)


class TextFirst(Timed):
    """Takes images last, as what reads text and images does."""

    def forward(self, input_ids: Any = None, pixel_values: Any = None) -> Tensor:  # type: ignore[override]
        return super().forward(pixel_values, input_ids[:, 0])


class WritesOver(Timed):
    """Writes over what it is given."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:  # type: ignore[override]
        result = super().forward(x, timestep)
        timestep.add_(1)
        return result


def entry(kind: type[nn.Module] = Timed, **more: Any) -> ModelConfig:
    target = f"models.test_inputs.{kind.__name__}"
    layers = more.pop("layers", ("stem", "last"))
    return ModelConfig("m", target=target, input_size=SIZE, layers=layers, **more)


def said(kind: type[nn.Module] = Timed, **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        planned(entry(kind, **more))
    return str(caught.value)


TIME = torch.tensor([3])

WAYS: dict[str, tuple[type[nn.Module], dict[str, Any] | None, dict[str, Any]]] = {
    "beside the images": (Timed, {"timestep": [3]}, {"timestep": TIME}),
    "images by name": (Timed, {"timestep": [3], "x": "images"}, {"timestep": TIME}),
    "several": (
        Timed,
        {"timestep": [3], "table": [[[0.5, 2.5], [1, 2]]], "scale": 2.0},
        {"timestep": TIME, "table": torch.tensor([[[0.5, 2.5], [1, 2]]]), "scale": 2.0},
    ),
    "in a mapping": (Mapped, {"batch": {"image": "images", "timestep": [3]}}, {"timestep": TIME}),
    "by keyword": (ByKeyword, None, {"timestep": torch.tensor([0])}),
    "all by keyword": (ByKeyword, {"timestep": [3]}, {"timestep": TIME}),
    "text first": (TextFirst, {"input_ids": [[3, 1, 4]]}, {"timestep": TIME}),
    "written over": (WritesOver, {"timestep": [3]}, {"timestep": TIME}),
}


class Plain(Timed):
    """The same network with values of its own, for the plain hook."""

    given: Mapping[str, Any]

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, **self.given)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_stored_is_what_the_network_computes_with_these_values(way: str) -> None:
    kind, inputs, given = WAYS[way]
    plain = built(Plain)
    plain.given = given
    for result in made(entry(kind, inputs=inputs, layers=("norm", "last", "output"))):
        assert result.difference(plain, 1) < TOLERANCE


class Required(Timed):
    """Can be traced, as it has no argument that may be missing."""

    def forward(self, x: Tensor, batch: Mapping[str, Any]) -> Tensor:  # type: ignore[override]
        mapped = self.norm(self.stem(x)) + self.time(batch["timestep"])[:, :, None, None]
        return self.last(torch.relu(mapped)).mean((2, 3))


class Bands(nn.Module):
    """A small network for images of several bands."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(bands, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6 * 8 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.stem(x))).flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("bands", [1, 2, 5, 13])
def test_images_of_8_px_may_have_any_number_of_bands(bands: int) -> None:
    more = {"args": {"bands": bands}, "mean": (0.5,) * bands, "std": (0.25,) * bands}
    config = replace(entry(Bands, layers=("stem", "head"), **more), input_size=8)
    for result in made(config):
        assert result.rows["image"].shape[-3:] == (8, 8, bands)
        assert result.difference(lambda: Bands(bands)) < TOLERANCE


def test_a_graph_receives_the_values_too() -> None:
    model, _ = planned(entry(Required, inputs={"batch": {"timestep": [3]}}))
    assert {layer.info.path for layer in model.layers} == {"traced, simplified, channels_last"}


def test_values_are_part_of_the_identity_of_the_images_wherever_they_come_from(
    tmp_path: Path,
) -> None:
    np.save(tmp_path / "time.npy", np.array([3]))
    torch.save(TIME, tmp_path / "time.pt")
    save_file({"batch": TIME}, tmp_path / "batch.safetensors")
    values: list[Any] = [None, {"timestep": [4]}, {"timestep": [3]}]
    values += [{"timestep": str(tmp_path / name)} for name in ("time.npy", "time.pt")]
    found = [load_network(entry(inputs=value)).identity for value in values]
    assert found[0].inputs == ""
    assert len({identity.inputs for identity in found}) == 3
    assert found[2] == found[3] == found[4]
    # A file of several tensors is a mapping.
    batch = {"timestep": [3], "table": str(tmp_path / "batch.safetensors")}
    hook = inputs_of(load_network(entry(inputs=batch)).module)
    assert hook is not None
    assert hook.values["table"] == {"batch": TIME}


def test_mistakes_are_named() -> None:
    assert "unknown input of model 'm' 'timestop'; choose from: timestep" in said(
        inputs={"timestop": 3}
    )
    assert "takes 2 inputs (x, timestep)" in said()
    assert "inputs: {timestep: [[1, 2, 3]]}" in said()
    assert "a list that is no tensor" in said(inputs={"timestep": [[1, 2], [3]]})
    assert "does not exist" in said(inputs={"timestep": "nothing.npy"})
    everything = {"timestep": [3], "x": [1], "table": [1], "scale": 1}
    assert "give the one that takes the images the value images" in said(inputs=everything)
    assert "inputs: {batch: {image: images}}" in said(Mapped)


ONLY = Timed()


def the_only_one() -> nn.Module:
    return ONLY


def test_one_network_does_not_serve_two_models_of_different_inputs() -> None:
    one = replace(entry(inputs={"timestep": [3]}), target="models.test_inputs.the_only_one")
    assert load_network(one).identity == load_network(one).identity
    for other in ({"timestep": [4]}, None):
        with pytest.raises(UserError, match="build a new one at each call"):
            load_network(replace(one, inputs=other))


def test_a_file_that_runs_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(UnusableFile):
        load_network(entry(inputs={"timestep": str(tmp_path / "x.pt")}))


@pytest.mark.slow
def test_a_run_and_verify_work_with_them(tmp_path: Path) -> None:
    settings = (
        "name=x",
        "models=[{name: m, target: models.test_inputs.Mapped, input_size: 16, layers: [last], "
        "inputs: {batch: {image: images, timestep: [3]}}}]",
        *("channels=[0,1]", "optimizer.steps=3", "optimizer.leaky_steps=1"),
    )
    assert run_here(tmp_path, *settings) == 0
    code, text = driven_here("verify", tmp_path, *settings)
    assert code == 0, text
    assert "measured again" in text
    layer = layer_atlas.open_atlas(tmp_path / "x")["last"]
    images, activation = layer.images[:, 0], layer["activation"][:, 0]
    plain = built(Plain)
    plain.given = {"timestep": TIME}
    network = load_network(entry())
    for channel, image in enumerate(images):
        true = hooked(plain, "last", normalized(image, network.mean, network.std))[0, channel]
        assert float(activation[channel]) == pytest.approx(float(true.mean()), rel=1e-3, abs=1e-5)


def test_modules_in_memory_take_them_as_tensors() -> None:
    network = built(Timed)
    found = layer_atlas.visualize(
        network,
        layers="last",
        channels=1,
        mean=[0.5] * 3,
        std=[0.25] * 3,
        inputs={"timestep": TIME},
        progress=False,
        **{"image_size": SIZE, "optimizer.steps": 3, "optimizer.leaky_steps": 1},
    )
    plain = Plain().eval()
    plain.load_state_dict(network.state_dict())
    plain.given = {"timestep": TIME}
    layer = found["last"]
    inputs = normalized(layer.images[0, 0], [0.5] * 3, [0.25] * 3)
    true = hooked(plain, "last", inputs)[0, 1].mean()
    assert float(layer["activation"][0, 0]) == pytest.approx(float(true), rel=1e-3)
    assert not network._forward_pre_hooks

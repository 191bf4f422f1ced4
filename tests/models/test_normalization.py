"""Batch norms: found in their order, with the distribution that their statistics describe."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.normalization import (
    BatchNorms,
    NormalizedLayer,
    ends_before,
    has_batch_norms,
    measured,
    places_of_norms,
)
from layer_atlas.plan.jobs import LayerInfo


def norm(kind: type[nn.Module], channels: int) -> nn.Module:
    """A norm with statistics and coefficients of its own."""
    made = kind(channels)
    generator = torch.Generator().manual_seed(channels)
    for name, low in (
        ("running_mean", -2.0),
        ("running_var", 0.2),
        ("weight", 0.5),
        ("bias", -1.0),
    ):
        values = torch.rand(channels, generator=generator) * 3.0 + low
        getattr(made, name).data.copy_(values)
    return made


def network(kind: type[nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    layers = [nn.Conv2d(3, 4, 3), norm(kind, 4), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 1)]
    return nn.Sequential(*layers, norm(kind, 5), nn.ReLU(inplace=True)).eval()


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def names(found: list[NormalizedLayer]) -> list[str]:
    return [layer.info.name for layer in found]


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d])
def test_norms_before_a_layer_are_those_that_ran_before_it_ended(kind: type[nn.Module]) -> None:
    found = BatchNorms(network(kind), images())
    before = {name: names(found.before(name)) for name in ("0", "1", "2", "3", "4", "output")}
    assert before == {"0": [], "1": [], "2": ["1"], "3": ["1"], "4": ["1"], "output": ["1", "4"]}


def test_the_distribution_is_that_of_the_norms_output_on_the_images_of_its_statistics() -> None:
    made = network()
    x = images(64)
    made.train()
    for module in made:
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of the last batch alone
    with torch.no_grad():
        made(x)
    made.eval()
    (first,) = BatchNorms(made, x).before("3")
    with torch.no_grad():
        output = made[1](made[0](x))
    assert torch.allclose(first.mean, output.mean(dim=(0, 2, 3)), atol=1e-3)
    assert torch.allclose(first.std, output.std(dim=(0, 2, 3)), rtol=1e-2)
    assert first.used.all()


def test_channels_that_a_norm_scales_to_nothing_are_not_used() -> None:
    made = network()
    made[1].weight.data[2] = 1e-9
    (first,) = BatchNorms(made, images()).before("3")
    assert first.used.tolist() == [True, True, False, True]


class NormAct(nn.BatchNorm2d):
    """A norm and the activation after it in one module, as timm has."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def test_a_norm_with_an_activation_is_read_before_the_activation() -> None:
    made = network(NormAct)
    (first,) = BatchNorms(made, images()).before("3")
    assert first.info.name == "1.drop"


class Unusual(nn.BatchNorm2d):
    """Has the statistics of a batch norm, and does something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sigmoid()


def test_a_module_that_does_not_normalise_is_left_out() -> None:
    assert names(BatchNorms(network(Unusual), images()).before("output")) == []


def test_networks_without_batch_norms_and_norms_without_statistics_have_none() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4)).eval()
    assert BatchNorms(plain, images()).before("output") == []
    bare = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))
    assert BatchNorms(bare, images()).before("output") == []


def test_a_network_is_left_as_it_was() -> None:
    made = network()
    state = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    BatchNorms(made, images())
    assert not any(module._forward_hooks for module in made.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in made.state_dict().items())


# --- without batch norms -------------------------------------------------------------------------


def described(made: nn.Module) -> list[LayerInfo]:
    return describe_layers(made, torch.zeros(1, 3, 12, 12))


def test_norms_of_another_kind_stand_for_batch_norms_and_convolutions_for_missing_ones() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1)).eval()
    assert [place.name for place in places_of_norms(described(plain))] == ["0", "2"]
    grouped = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU()).eval()
    assert [place.name for place in places_of_norms(described(grouped))] == ["1"]
    assert not has_batch_norms(plain)
    assert not has_batch_norms(grouped)
    assert has_batch_norms(network())


def test_layers_end_before_a_layer_if_it_needs_no_more_operations() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.ReLU()).eval()
    infos = {layer.name: layer for layer in described(plain)}
    places = places_of_norms(list(infos.values()))
    before = {name: [x.name for x in ends_before(infos[name], places)] for name in infos}
    assert before == {"0": [], "1": ["0"], "2": ["0"], "3": ["0", "2"], "output": ["0", "2"]}


def test_measured_statistics_are_those_of_all_images_and_positions() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 1)).eval()
    with torch.no_grad():
        plain[0].weight[2] = 0.0  # a channel that carries nothing
    x = images(21) * 3.0 + 1.0
    places = places_of_norms(described(plain))
    first, second = measured(plain, places, torch.split(x, 8))
    with torch.no_grad():
        expected = plain[0](x)
        after = plain[2](plain[1](expected.clone()))
    assert torch.allclose(first.mean, expected.mean(dim=(0, 2, 3)), atol=1e-5)
    assert torch.allclose(first.std, expected.std(dim=(0, 2, 3), correction=0), atol=1e-4)
    assert first.used.tolist() == [True, True, False, True]
    assert torch.allclose(second.mean, after.mean(dim=(0, 2, 3)), atol=1e-5)


def test_measured_statistics_have_the_same_bits_however_images_are_batched() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()
    places, x = places_of_norms(described(plain)), images(40)
    once, again = (measured(plain, places, torch.split(x, size)) for size in (32, 8))
    for one, other in zip(once, again, strict=True):
        assert torch.equal(one.mean, other.mean)
        assert torch.equal(one.std, other.std)

"""Observation: known answers, the workbench's numbers, and the same bits in any company."""

from collections.abc import Callable

import pytest
import torch
from nets import Branches, forward_to, in_place, residual
from torch import Tensor, nn
from toys import colour_reader, example, layer_of, make_recipe, random_network

from layer_atlas.config.config import ModelConfig
from layer_atlas.models.activations import ChannelActivations, Observer, normalized
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import Network, load_network
from layer_atlas.models.pixels import from_bytes
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.visualization.optimization.renderer import Renderer

SIZE = 48


def observed(network: nn.Module, inputs: Tensor) -> dict[str, ChannelActivations]:
    layers = describe_layers(network, inputs[:1])
    return Observer(network, layers)(inputs)


def same_bits(
    one: ChannelActivations, other: ChannelActivations, rows: slice = slice(None)
) -> bool:
    pairs = ((one.mean, other.mean), (one.peak, other.peak), (one.place, other.place))
    return all(torch.equal(a, b[rows]) for a, b in pairs)


@pytest.fixture(scope="module")
def demo() -> Network:
    return load_network(ModelConfig("demo"))


def chosen(network: Network, *names: str) -> list[LayerInfo]:
    layers = describe_layers(network.module, network.example((SIZE, SIZE)))
    return [layer for layer in layers if layer.name in names]


# --- known answers -------------------------------------------------------------------------------


def test_a_colour_reader_tells_mean_peak_and_place() -> None:
    network = nn.Sequential(colour_reader())
    inputs = torch.zeros(2, 3, 4, 5)
    inputs[0, 0, 1, 2] = 4.0
    inputs[1, 1] = -1.0
    inputs[1, 1, 3, 4] = inputs[1, 1, 3, 1] = -0.5
    answer = observed(network, inputs)["0"]
    assert answer.mean[0].tolist() == pytest.approx([0.2, 0.0, 0.0])
    assert answer.peak.tolist() == [[4.0, 0.0, 0.0], [0.0, -0.5, 0.0]]
    assert answer.place.tolist() == [[1 * 5 + 2, 0, 0], [0, 3 * 5 + 1, 0]]  # the first of equals


class Kinds(nn.Module):
    """Maps, vectors, tokens and channels-last maps."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 7, 3, stride=2)
        self.tokens = nn.Linear(7, 6)
        self.grid = nn.LayerNorm(7)
        self.vector = nn.Linear(7, 9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maps(x)
        self.tokens(x.flatten(2).mT)
        self.grid(x.permute(0, 2, 3, 1))
        return self.vector(x.mean(dim=(2, 3)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("make", [lambda: random_network(Kinds()), in_place, residual, Branches])
def test_every_kind_of_layer_is_reduced_as_it_was_when_it_was_made(
    make: Callable[[], nn.Module], layout: torch.memory_format
) -> None:
    network = make().eval().requires_grad_(False)
    inputs = example(16, batch=8).contiguous(memory_format=layout)
    answers = observed(network, inputs)
    for info in describe_layers(network, inputs[:1]):
        (activation,) = forward_to(network, [info], inputs[:1])(inputs.clone())
        answer = answers[info.name]
        torch.testing.assert_close(answer.mean, activation.mean(dim=2))
        assert torch.equal(answer.peak, activation.amax(dim=2))
        assert torch.equal(answer.place, (activation == answer.peak[..., None]).int().argmax(dim=2))


def test_answers_are_fp32_whatever_the_network_computes_in() -> None:
    network = random_network(nn.Conv2d(3, 4, 3)).bfloat16()
    info = layer_of(random_network(nn.Conv2d(3, 4, 3)), "0")
    answer = Observer(network, [info])(example(16, batch=8).bfloat16())["0"]
    assert (answer.mean.dtype, answer.peak.dtype, answer.place.dtype) == (
        *(torch.float32,) * 2,
        torch.int64,
    )


def test_what_is_not_a_number_is_seen() -> None:
    inputs = torch.zeros(1, 3, 4, 4)
    inputs[0, 1, 2, 2] = torch.nan
    answer = observed(nn.Sequential(colour_reader()), inputs)["0"]
    assert answer.mean[0].isnan().any()
    assert answer.peak[0].isnan().any()


# --- one forward pass ----------------------------------------------------------------------------


def test_the_forward_is_left_behind_the_last_layer(demo: Network) -> None:
    layers, calls = chosen(demo, "conv1", "conv3"), []
    handles = [
        module.register_forward_hook(lambda m, a, o, name=name: calls.append(name))
        for name, module in demo.module.named_modules()
        if name.startswith("conv")
    ]
    try:
        Observer(demo.module, layers)(demo.example((SIZE, SIZE)))
    finally:
        for handle in handles:
            handle.remove()
    # The observer's own hook comes after these and stops the pass.
    assert calls == ["conv1", "conv2", "conv3"]
    assert not any(module._forward_hooks for module in demo.module.modules())


def test_the_first_call_counts() -> None:
    relu = nn.ReLU()
    network = random_network(nn.Conv2d(3, 3, 1), relu, nn.Conv2d(3, 3, 1), relu)
    inputs = example(8, batch=8)
    expected = relu(network[0](inputs)).flatten(2)
    assert torch.equal(observed(network, inputs)["1"].peak, expected.amax(dim=2))


def test_a_layer_that_is_not_called_is_told(demo: Network) -> None:
    info = layer_of(random_network(nn.Conv2d(3, 4, 3)), "0")
    network = nn.ModuleDict({"0": nn.Conv2d(3, 4, 3)})
    network.forward = lambda x: x  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="'0' was not called"):
        Observer(network, [info])(example())


# --- the same numbers as elsewhere, the same bits in any company ---------------------------------


def views(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)


def test_means_are_those_of_the_workbench(demo: Network) -> None:
    layers = chosen(demo, "conv2", "conv5")
    renderer = Renderer(demo, make_recipe(image_size=SIZE), torch.device("cpu"))
    answers = Observer(renderer.network.plain, layers)(normalized(views(16), demo))
    for info in layers:
        with torch.no_grad():
            expected = renderer.network.exact_path([info]).forward(from_bytes(views(16)))[0]
        torch.testing.assert_close(answers[info.name].mean, expected.mean(dim=2))
        torch.testing.assert_close(answers[info.name].peak, expected.amax(dim=2))


def test_inputs_are_those_of_the_workbench_to_the_bit(demo: Network) -> None:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (demo.mean, demo.std))
    inputs = normalized(views(3), demo)
    assert torch.equal(inputs, (from_bytes(views(3)) - mean) / std)
    assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_bits_do_not_depend_on_the_batch_or_on_threads(demo: Network) -> None:
    layers = chosen(demo, "conv1", "conv2", "conv5", "conv6")
    network = demo.module.to(memory_format=torch.channels_last)
    observer, inputs = Observer(network, layers), normalized(views(40), demo)
    reference, before = observer(inputs), torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for batch in (1, 3, 8, 13, 32):
                for start in range(0, 40, batch):
                    rows = slice(start, start + batch)
                    for name, answer in observer(inputs[rows]).items():
                        assert same_bits(answer, reference[name], rows), f"{name} {batch} {threads}"
            backwards = observer(inputs.flip(0))
            for name, answer in backwards.items():
                assert torch.equal(answer.mean.flip(0), reference[name].mean)
    finally:
        torch.set_num_threads(before)

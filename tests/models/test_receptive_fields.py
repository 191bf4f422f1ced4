"""Receptive fields against arithmetic by hand, for every kind of network."""

import pytest
import torch
from torch import Tensor, nn
from toys import example, random_network

from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.receptive_fields import receptive_fields

Axis = tuple[int, int, int]
"""Kernel, stride and padding along one axis."""


def fields(network: nn.Module, height: int = 16, width: int = 16) -> dict[str, Tensor]:
    inputs = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    return receptive_fields(network, describe_layers(network, inputs), inputs)


def by_arithmetic(size: int, steps: list[Axis]) -> list[tuple[int, int]]:
    """First and end of what each position sees (Araujo et al., Distill 2019, section 2)."""
    sizes = [size]
    for kernel, stride, padding in steps:
        sizes.append((sizes[-1] + 2 * padding - kernel) // stride + 1)
    return [_seen(position, position + 1, sizes[:-1], steps) for position in range(sizes[-1])]


def _seen(first: int, end: int, sizes: list[int], steps: list[Axis]) -> tuple[int, int]:
    """Back through the steps; what lies in the padding is not there."""
    for (kernel, stride, padding), size in zip(reversed(steps), reversed(sizes), strict=True):
        first = max(0, first * stride - padding)
        end = min(size, (end - 1) * stride - padding + kernel)
    return first, end


def boxes(rows: list[tuple[int, int]], columns: list[tuple[int, int]]) -> Tensor:
    return torch.tensor([(c[0], r[0], c[1], r[1]) for r in rows for c in columns])


def test_a_stack_of_convolutions() -> None:
    network = random_network(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.MaxPool2d(2)
    )
    found = fields(network, 15, 18)
    steps: list[Axis] = [(3, 1, 1), (3, 2, 0), (2, 2, 0)]
    for name, depth in (("0", 1), ("1", 1), ("2", 2), ("3", 3)):
        expected = boxes(by_arithmetic(15, steps[:depth]), by_arithmetic(18, steps[:depth]))
        assert torch.equal(found[name], expected), name
    assert found["0"][0].tolist() == [0, 0, 2, 2]
    assert found["0"][1].tolist() == [0, 0, 3, 2]


def test_long_kernels_dilation_and_zero_weights() -> None:
    network = random_network(
        nn.Conv2d(3, 4, (1, 7), padding=(0, 3)), nn.Conv2d(4, 4, 3, dilation=2, padding=2)
    )
    network[1].weight.zero_()
    found = fields(network)
    long, point = by_arithmetic(16, [(7, 1, 3)]), by_arithmetic(16, [(1, 1, 0)])
    assert torch.equal(found["0"], boxes(point, long))
    expected = boxes(by_arithmetic(16, [(5, 1, 2)]), by_arithmetic(16, [(7, 1, 3), (5, 1, 2)]))
    # A dilated kernel at the border reaches less than a whole one: its outer taps are padding.
    inner = [i for i in range(256) if 2 <= i // 16 < 14 and 5 <= i % 16 < 11]
    assert torch.equal(found["1"][inner], expected[inner])


def test_attention_sees_the_whole_image_and_what_is_before_it_does_not() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, stride=4)
            self.inner = nn.Linear(8, 8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.after = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.inner(self.patches(x).flatten(2).mT)
            return self.after(self.attention(tokens, tokens, tokens)[0])

    found = fields(random_network(Tokens()))
    patch = by_arithmetic(16, [(4, 4, 0)])
    for name in ("patches", "inner"):
        assert torch.equal(found[f"0.{name}"], boxes(patch, patch))
    for name in ("attention", "after"):
        assert found[f"0.{name}"].tolist() == [[0, 0, 16, 16]] * 16


class Replaces(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.nan_to_num(x)


def test_what_hides_its_origin_counts_as_seeing_everything() -> None:
    found = fields(random_network(Replaces(), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)))
    assert found["1"].tolist() == [[0, 0, 16, 16]] * 14**2
    assert found["2"].tolist() == [[0, 0, 16, 16]]


class Turns(nn.Module):
    """Leaves out a layer where a comparison fails, as all do with what is not a number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.then = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.then(y) if y.square().mean() > 0 else y


def test_a_layer_that_is_left_out_counts_as_seeing_everything() -> None:
    found = fields(random_network(Turns()))
    assert found["0.then"].tolist() == [[0, 0, 16, 16]] * 12**2
    assert found["0.first"][0].tolist() == [0, 0, 3, 3]


def test_deep_layers_take_few_passes() -> None:
    network, images = random_network(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)), []
    (info,) = [x for x in describe_layers(network, example(64)) if x.name == "1"]
    network.register_forward_pre_hook(lambda module, args: images.append(len(args[0])))
    receptive_fields(network, [info], example(64))
    assert images == [4]


def test_whatever_is_nowhere_seen_is_in_no_box() -> None:
    found = fields(random_network(nn.Conv2d(3, 4, 2, stride=5)))
    assert found["0"].tolist() == boxes(*[[(0, 2), (5, 7), (10, 12)]] * 2).tolist()


def test_boxes_do_not_depend_on_the_other_layers() -> None:
    network = random_network(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, stride=2), nn.Flatten())
    layers = describe_layers(network, example())
    together = receptive_fields(network, layers, example())
    for layer in layers:
        assert torch.equal(
            receptive_fields(network, [layer], example())[layer.name], together[layer.name]
        )


@pytest.mark.parametrize("size", [64, pytest.param(96, marks=pytest.mark.slow)])
def test_squeezenet_by_arithmetic(size: int) -> None:
    from torchvision.models import squeezenet1_1

    network = squeezenet1_1().eval().requires_grad_(False).features
    found = fields(network, size, size)
    # Ceiling mode of its pools adds a window at the border; these sizes need none.
    pool, fire, steps = (3, 2, 0), (3, 1, 1), [(3, 2, 0)]
    expected: list[tuple[int, list[Axis]]] = [(0, steps)]
    expected += [(2, [*steps, pool]), (3, [*steps, pool, fire]), (4, [*steps, pool, fire, fire])]
    steps = [*steps, pool, fire, fire, pool, fire, fire]
    expected += [(7, steps), (8, [*steps, pool]), (12, [*steps, pool, *[fire] * 4])]
    for number, through in expected:
        line = by_arithmetic(size, through)
        assert torch.equal(found[str(number)], boxes(line, line)), number

"""Simplified graphs: the same function of the image, with fewer and smaller steps."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, fx, nn
from torch.nn import functional as F
from toys import example, random_network

from layer_atlas.models import graph as simplify_module
from layer_atlas.models.graph import simplify, trace
from layer_atlas.visualization.gradients import LeakyGradient

SIZE = 64

# Model, layer, batch norms that are left, whether a ReLU moves.
NETWORKS = [
    ("squeezenet1_1", "features.12", 0, True),
    ("squeezenet1_1", "features.6.expand3x3_activation", 0, True),
    ("resnet18", "layer2.1.conv1", 0, True),
    ("resnet50", "layer2", 0, True),
    ("densenet121", "features.denseblock2.denselayer3", 6 + 1 + 3, True),
    ("googlenet", "inception4a", 0, True),
    ("mobilenet_v3_small", "features.6", 0, False),
    ("efficientnet_b0", "features.4", 0, False),
    ("vgg11_bn", "features.18", 0, True),
    ("shufflenet_v2_x0_5", "stage3.1", 0, True),
    ("convnext_tiny", "features.3", 0, False),
    ("regnet_y_400mf", "trunk_output.block2", 0, False),
]


# --- helpers -------------------------------------------------------------------------------------


def torchvision_network(model: str) -> nn.Module:
    """Random weights, and batch norms that do something."""
    torch.manual_seed(0)
    # The way these two draw their weights takes seconds.
    options = {"init_weights": False} if model in ("googlenet", "vgg11_bn") else {}
    network = torchvision.models.get_model(model, weights=None, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.3)
    return network.eval().requires_grad_(False)


def traced(network: nn.Module, layer: str) -> fx.GraphModule:
    found = trace(network)
    graph = found and found.cut([layer])
    assert graph is not None
    return graph


def toy(network: nn.Module) -> fx.GraphModule:
    """A graph of a whole toy network."""
    random_network(*network.children())
    return fx.GraphModule(network, Tracer().trace(network.eval().requires_grad_(False)))


class Tracer(fx.Tracer):
    """Stops at the chains that are made for it."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Chain) or super().is_leaf_module(m, module_qualified_name)


class Chain(nn.Sequential):
    pass


def outcome(graph: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output and the gradient of a fixed random mixture of it."""
    x = x.clone().requires_grad_()
    result = graph(x.clone())  # a graph may write over its input
    y = result[0] if isinstance(result, tuple) else result
    mixture = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    (gradient,) = torch.autograd.grad((y * mixture).sum(), x)
    return y.detach(), gradient


def assert_close(simple: nn.Module, graph: nn.Module, x: Tensor, share: float) -> None:
    for got, expected in zip(outcome(simple, x), outcome(graph, x), strict=True):
        assert (got - expected).norm() <= share * expected.norm()


def assert_equal(simple: nn.Module, graph: nn.Module, x: Tensor) -> None:
    for got, expected in zip(outcome(simple, x), outcome(graph, x), strict=True):
        assert torch.equal(got, expected)


def count(graph: fx.GraphModule, kind: type[nn.Module]) -> int:
    modules = dict(graph.named_modules())
    return sum(isinstance(modules.get(str(node.target)), kind) for node in graph.graph.nodes)


def steps(graph: fx.GraphModule) -> list[str]:
    """What the graph calls, in order, in words."""
    words = []
    for node in graph.graph.nodes:
        if node.op == "call_module":
            words.append(type(graph.get_submodule(str(node.target))).__name__)
        elif node.op.startswith("call"):
            words.append(getattr(node.target, "__name__", str(node.target)))
    return words


def assert_left_alone(graph: fx.GraphModule) -> None:
    simple = simplify(graph)
    assert steps(simple) == steps(graph)
    assert_equal(simple, graph, example())


class Toy(nn.Module):
    """Two convolutions, a norm, a pool and a ReLU, called by a function."""

    def __init__(self, call: Callable[["Toy", Tensor], Any], inplace: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.other = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.norm2 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=inplace)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.call = call

    def forward(self, x: Tensor) -> Any:
        return self.call(self, x)


# --- real networks -------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "layer", "norms_left", "relu_moves"), NETWORKS)
def test_the_same_function_and_gradient(
    model: str, layer: str, norms_left: int, relu_moves: bool
) -> None:
    network = torchvision_network(model)
    graph, x = traced(network, layer), example(SIZE)
    before, code, expected = deepcopy(graph.state_dict()), graph.code, outcome(graph, x)

    simple = simplify(graph)

    assert count(simple, nn.BatchNorm2d) == norms_left
    assert ("relu_" in steps(simple)) == relu_moves
    assert (outcome(simple, x)[0] - expected[0]).norm() <= 1e-4 * expected[0].norm()
    # What was passed in is as it was.
    assert graph.code == code
    after = network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(torch.equal(*pair) for pair in zip(outcome(graph, x), expected, strict=True))
    # In fp64, because in fp32 a unit that is almost zero can end on the other side of its ReLU.
    exact = graph.double()
    assert_close(simplify(exact), exact, x.double(), 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model", ["squeezenet1_1", "googlenet", "resnet18", "shufflenet_v2_x0_5"])
def test_moving_relu_changes_no_bit(
    model: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simplify_module, "_fold_batch_norms", lambda work: None)
    layers = {"squeezenet1_1": "features.12", "googlenet": "inception4a", "resnet18": "layer2"}
    graph = traced(torchvision_network(model).to(dtype), layers.get(model, "stage2"))
    simple = simplify(graph)
    assert steps(simple) != steps(graph)
    assert_equal(simple, graph, example(SIZE).to(dtype))


def test_graphs_that_share_modules_are_independent() -> None:
    network = torchvision_network("resnet18")
    simple = simplify(traced(network, "layer1"))
    other = traced(network, "layer1.0.bn1")
    x = example(SIZE)
    assert_close(simplify(other), other, x, 1e-4)
    assert simple.get_submodule("maxpool") is network.maxpool  # shared, not copied
    assert "bn1" not in dict(simple.named_modules())


def test_simplifying_twice_adds_nothing() -> None:
    once = simplify(traced(torchvision_network("resnet18"), "layer1"))
    twice = simplify(once)
    assert steps(twice) == steps(once)
    assert_equal(twice, once, example(SIZE))


# --- chains --------------------------------------------------------------------------------------


def chained(*parts: nn.Module, call: Callable[..., Any] = lambda t, x: t.chain(x)) -> Toy:
    network = Toy(call)
    network.chain = Chain(*parts)
    return network


def test_folding_reaches_into_no_module_of_the_network() -> None:
    """Had it been changed in place, so would be the chain, which belongs to the network."""

    def call(t: Toy, x: Tensor) -> Tensor:
        return t.chain(x) + t.norm(t.chain[0](x))

    network = chained(nn.Conv2d(3, 4, 1), call=call)
    network.chain.register_forward_hook(lambda module, args, output: None)  # keeps it closed
    graph, x = toy(network), example()
    before = outcome(graph, x)
    simple = simplify(graph)
    assert steps(simple) == ["Chain", "Conv2d", "add"]
    assert_close(simple, graph, x, 1e-5)
    assert all(torch.equal(*pair) for pair in zip(outcome(graph, x), before, strict=True))


# --- batch norm ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_is_folded_into_its_convolution(bias: bool, affine: bool) -> None:
    chain = random_network(nn.Conv2d(3, 6, 3, bias=bias), nn.BatchNorm2d(6, affine=affine))
    graph = fx.symbolic_trace(chain)
    simple = simplify(graph)
    assert steps(simple) == ["Conv2d"]
    assert_close(simple, graph, example(), 1e-6)
    assert not any(parameter.requires_grad for parameter in simple.parameters())


def test_two_norms_in_a_row_are_both_folded() -> None:
    graph = toy(Toy(lambda t, x: t.norm2(t.norm(t.conv(x)))))
    assert steps(simplify(graph)) == ["Conv2d"]
    assert_close(simplify(graph), graph, example(), 1e-5)


def test_a_bf16_network_stays_bf16_and_is_rounded_once() -> None:
    chain = random_network(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)).to(torch.bfloat16)
    chain.to(memory_format=torch.channels_last)
    simple = simplify(fx.symbolic_trace(chain))
    exact = simplify(fx.symbolic_trace(deepcopy(chain).double()))
    for got, expected in zip(simple.parameters(), exact.parameters(), strict=True):
        assert got.stride() == expected.stride()
        assert torch.equal(got, expected.to(torch.bfloat16))
    assert {tensor.dtype for tensor in chain.parameters()} == {torch.bfloat16}


def hooked() -> Toy:
    network = Toy(lambda t, x: t.norm(t.conv(x)))
    network.conv.register_forward_hook(lambda module, args, output: output * 2)
    return network


def unfixed() -> Toy:
    """Norms by the batch's own statistics."""
    network = Toy(lambda t, x: t.norm(t.conv(x)))
    network.norm = nn.BatchNorm2d(4, track_running_stats=False)
    return network


@pytest.mark.parametrize(
    "network",
    [
        Toy(lambda t, x: t.norm(t.conv(x)) + t.conv(x + 1)),  # conv called twice
        Toy(lambda t, x: t.norm(t.conv(x)) + t.norm(t.other(x))),  # norm called twice
        Toy(lambda t, x: (lambda y: y + t.norm(y))(t.conv(x))),  # conv's output is used twice
        Toy(lambda t, x: t.norm(F.relu(t.conv(x)))),  # something in between
        Toy(lambda t, x: t.conv(x)),
        hooked(),
        unfixed(),
    ],
)
def test_what_cannot_be_folded_is_left_alone(network: Toy) -> None:
    assert_left_alone(toy(network))


def test_a_norm_that_does_not_fit_is_left_alone() -> None:
    network = Toy(lambda t, x: t.norm(t.conv(x)))
    network.norm = nn.BatchNorm2d(5)
    assert steps(simplify(toy(network))) == ["Conv2d", "BatchNorm2d"]


def test_nothing_is_folded_in_training_mode() -> None:
    graph = toy(Toy(lambda t, x: t.norm(t.conv(x))))
    assert steps(simplify(graph.train())) == ["Conv2d", "BatchNorm2d"]


# --- ReLU ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda t, x: t.pool(t.relu(t.conv(x))), "Conv2d MaxPool2d relu_"),
        (lambda t, x: t.pool(F.relu(t.conv(x), True)), "Conv2d MaxPool2d relu_"),
        (lambda t, x: t.pool(torch.relu(t.conv(x))), "Conv2d MaxPool2d relu_"),
        (lambda t, x: t.pool(t.conv(x).relu()), "Conv2d MaxPool2d relu_"),
        (lambda t, x: t.pool(t.conv(x).relu_()), "Conv2d MaxPool2d relu_"),
        (lambda t, x: t.pool(t.relu(t.conv(x) + x[:, :1])), "Conv2d getitem add MaxPool2d relu_"),
        (lambda t, x: F.max_pool2d(t.relu(t.conv(x)), 2), "Conv2d max_pool2d relu_"),
        (lambda t, x: torch.max_pool2d(t.relu(t.conv(x)), 2), "Conv2d max_pool2d relu_"),
        (
            lambda t, x: torch.cat([t.relu(t.conv(x)), F.relu(t.other(x))], 1),
            "Conv2d Conv2d cat relu_",
        ),
        (
            lambda t, x: t.pool(torch.concat(tensors=(t.relu(t.conv(x)), t.relu(t.other(x))))),
            "Conv2d Conv2d concat MaxPool2d relu_",
        ),
        (lambda t, x: (lambda y: torch.cat([y, y]))(t.relu(t.conv(x))), "Conv2d cat relu_"),
        (lambda t, x: t.pool(t.pool(t.relu(t.conv(x)))), "Conv2d MaxPool2d MaxPool2d relu_"),
    ],
)
def test_relu_waits(call: Callable[[Toy, Tensor], Tensor], expected: str, inplace: bool) -> None:
    graph = toy(Toy(call, inplace))
    simple = simplify(graph)
    assert steps(simple) == expected.split()
    assert_equal(simple, graph, example())


def two_users(t: Toy, x: Tensor) -> Tensor:
    y = t.relu(t.conv(x))
    return t.pool(y) + y


def input_used_again(t: Toy, x: Tensor) -> Tensor:
    """An in-place ReLU is seen by those who use its input afterwards."""
    y = t.conv(x)
    return t.pool(t.relu(y)) + y


def view_used_again(t: Toy, x: Tensor) -> Tensor:
    """An in-place ReLU of a part is seen by those who use the whole."""
    y = t.conv(x)
    return t.pool(t.relu(y[:, :2])) + y[:, :2]


def written_over(t: Toy, x: Tensor) -> Tensor:
    """What a ReLU has saved for its gradient must not be written over."""
    return t.pool(t.relu(t.conv(x))).mul_(2)


def written_over_in_a_view(t: Toy, x: Tensor) -> Tensor:
    y = torch.cat([t.relu(t.conv(x)), t.relu(t.other(x))])
    return y.view(-1).sub_(1)


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize(
    "call",
    [
        two_users,
        input_used_again,
        view_used_again,
        written_over,
        written_over_in_a_view,
        lambda t, x: torch.cat([t.relu(t.conv(x)), t.other(x)]),
        lambda t, x: torch.cat([t.relu(t.conv(x)), F.relu6(t.other(x))]),
        lambda t, x: t.pool(t.relu(x)),  # writes over its input, if in place
        lambda t, x: F.avg_pool2d(t.relu(t.conv(x)), 2),
        lambda t, x: t.relu(t.pool(t.conv(x))),
        lambda t, x: torch.stack([t.relu(t.conv(x)), t.relu(t.other(x))]),
    ],
)
def test_where_relu_cannot_wait_it_does_not(
    call: Callable[[Toy, Tensor], Tensor], inplace: bool
) -> None:
    assert_left_alone(toy(Toy(call, inplace)))


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("settings", [{"return_indices": True}, {"dilation": 2}])
def test_a_pool_that_does_not_commute_is_left_alone(
    settings: dict[str, Any], inplace: bool
) -> None:
    """One returns a tuple; of the other, a window can hold padding alone, which is -inf."""
    network = Toy(lambda t, x: t.pool(t.relu(t.conv(x))), inplace)
    network.pool = nn.MaxPool2d(2, **settings)
    for graph in (
        toy(network),
        toy(Toy(lambda t, x: F.max_pool2d(t.relu(t.conv(x)), 2, **settings))),
    ):
        assert steps(simplify(graph)) == steps(graph)


def test_a_concatenation_of_what_no_graph_can_tell_is_left_alone() -> None:
    assert_left_alone(toy(Toy(lambda t, x: torch.cat(t.relu(t.conv(x)).split(2, dim=1)))))


def test_gradients_leak_through_a_relu_that_waited() -> None:
    graph = toy(Toy(lambda t, x: torch.cat([t.relu(t.conv(x) - 9), t.relu(t.other(x) - 9)])))
    simple = simplify(graph)
    with LeakyGradient(0.1, torch.ones(1)):
        assert outcome(simple, example())[1].norm() > 0
        assert_equal(simple, graph, example())

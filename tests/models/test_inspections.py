"""An answer about a network is found again for the very same network, and for no other."""

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from layer_atlas.config.config import ModelConfig
from layer_atlas.models import digests, inspections
from layer_atlas.models.architectures import in_memory
from layer_atlas.models.inspections import Inspection, behaviour_of
from layer_atlas.models.load import Network, load_network

CPU = torch.device("cpu")
SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=stride)
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, x):
        return self.conv(x) * self.scale

def build(**args):
    torch.manual_seed(0)
    return Net(**args)
"""


@dataclass(frozen=True)
class Answer:
    """What is kept."""

    text: str


QUESTION = {"size": [8, 8]}
ANSWER = Answer("as found")


def keep(network: Network) -> None:
    Inspection(network, CPU, QUESTION).keep(ANSWER)


def recalled(network: Network) -> Answer | None:
    return Inspection(network, CPU, QUESTION).recall(Answer)


@pytest.fixture
def own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path
) -> Callable[..., Network]:
    """Writes a network's code, and loads it as another process would."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "own_inspected.py"

    def load(source: str = SOURCE, **settings: object) -> Network:
        if not file.exists() or file.read_text() != source:
            file.write_text(source)
        sys.modules.pop(file.stem, None)
        importlib.invalidate_caches()
        return load_network(ModelConfig("own", target="own_inspected.build", **settings))  # type: ignore[arg-type]

    return load


def test_an_answer_is_found_again(own: Callable[..., Network]) -> None:
    assert recalled(own()) is None
    keep(own())
    assert recalled(own()) == ANSWER
    # Its name alone decides nothing.
    assert recalled(replace(own(), label="another")) == ANSWER


@pytest.mark.parametrize(
    "source",
    [
        SOURCE.replace("self.conv(x) *", "1.0 * self.conv(x) *"),
        SOURCE.replace("return Net", "return (lambda net: net)(Net(**args)) or Net"),
        SOURCE.replace("torch.ones(1)", "torch.ones(1) * 2"),
        SOURCE.replace("seed(0)", "seed(1)"),
    ],
    ids=["forward", "factory", "buffer", "weights"],
)
def test_changed_code_is_another_network(own: Callable[..., Network], source: str) -> None:
    keep(own())
    assert recalled(own(source)) is None


def test_changed_arguments_are_another_network(own: Callable[..., Network]) -> None:
    keep(own(args={"stride": 1}))
    assert recalled(own(args={"stride": 2})) is None
    assert recalled(own(args={"stride": 1})) == ANSWER


@pytest.mark.parametrize("settings", [{"mean": (0.5,) * 3, "std": (0.5,) * 3}])
def test_other_preprocessing_is_another_network(
    own: Callable[..., Network], settings: dict[str, object]
) -> None:
    keep(own())
    assert recalled(own(**settings)) is None


def test_one_bit_of_the_weights_counts(own: Callable[..., Network], tmp_path: Path) -> None:
    network = own()
    files = [tmp_path / name for name in ("one.pt", "same.pt", "other.pt")]
    state = network.module.state_dict()
    for file in files[:2]:
        torch.save(state, file)
    state["conv.bias"].view(torch.int32)[0] ^= 1
    torch.save(state, files[2])
    first, same, other = (own(weights=str(file)) for file in files)
    keep(first)
    assert recalled(same) == ANSWER
    assert recalled(other) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda module: module.train(),
        lambda module: setattr(module.conv, "stride", (2, 2)),
        lambda module: module.register_forward_hook(lambda *args: None),
        lambda module: module.scale.add_(1e-7),
    ],
    ids=["mode", "attribute", "hook", "buffer"],
)
def test_what_changed_in_the_module_counts(
    own: Callable[..., Network], change: Callable[[nn.Module], object]
) -> None:
    network = own()
    keep(network)
    change(network.module)
    assert recalled(network) is None


def test_the_question_counts(own: Callable[..., Network]) -> None:
    network = own()
    keep(network)
    assert Inspection(network, CPU, {"size": [8, 9]}).recall(Answer) is None
    assert Inspection(network, CPU, None).recall(Answer) is None


def test_versions_device_and_package_count(
    own: Callable[..., Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(own())
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "99.0")
        assert recalled(own()) is None
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "SSE")
        assert recalled(own()) is None
    with monkeypatch.context() as patch:
        patch.setattr(inspections, "_package_digest", lambda: "another")
        assert recalled(own()) is None
    assert recalled(own()) == ANSWER


def test_an_installed_file_that_was_edited_counts(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its package has the same version, and so the network the same identity."""
    network = load_network(ModelConfig("squeezenet1_1", weights="none"))
    keep(network)
    assert recalled(network) == ANSWER
    files = digests.loaded_files(network.module)
    name = "torchvision.models.squeezenet"
    assert name in [file for file, *_ in files]
    edited = [(file, size, changed + (file == name)) for file, size, changed in files]
    monkeypatch.setattr(inspections, "loaded_files", lambda module: edited)
    assert recalled(network) is None


def test_nothing_is_kept_of_what_may_hold_more_than_shows(
    own: Callable[..., Network], cache_folder: Path
) -> None:
    module = own().module
    with in_memory({"memory:net": module}):
        held = load_network(ModelConfig("net", target="memory:net"))
    generator = replace(own(), module=own().module)
    generator.module.held = (x for x in ())
    for network in (held, generator, replace(own(), is_in_memory=True)):
        keep(network)
        assert recalled(network) is None
    assert not cache_folder.exists()


def test_nothing_is_kept_of_code_that_nothing_identifies(cache_folder: Path) -> None:
    class Net(nn.Identity):
        pass

    def network(module: str) -> Network:
        made = type("Net", (Net,), {"__module__": module})()
        return replace(load_network(ModelConfig("demo")), module=made)

    assert not digests.is_identified(network("nowhere").module)
    keep(network("nowhere"))
    assert not cache_folder.exists()
    assert digests.is_identified(nn.ReLU())
    assert digests.is_identified(load_network(ModelConfig("demo")).module)


# --- what a network does just now ----------------------------------------------------------------


class Driven(nn.Module):
    """Does what an environment variable says, which neither its code nor its attributes show."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        match os.environ.get("DRIVEN"):
            case "other numbers":
                x = x * 1.001
            case "other shapes":
                x = x[:, :, ::2]
            case "no gradient":
                x = x.detach()
            case "other layers":
                return self.act(self.act(x))
            case "failure":
                raise ValueError
        return self.act(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "how", ["other numbers", "other shapes", "no gradient", "other layers", "failure"]
)
def test_what_a_network_does_shows(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network, example = Driven().eval(), torch.randn(1, 3, 12, 12)
    before = behaviour_of(network, example)
    assert before == behaviour_of(network, example)
    monkeypatch.setenv("DRIVEN", how)
    assert behaviour_of(network, example) != before
    assert (behaviour_of(network, example) is None) == (how == "failure")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bool, torch.int64, torch.float64])
def test_numbers_of_any_kind_count(dtype: torch.dtype) -> None:
    class Kind(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x > 0).to(dtype)

    network = nn.Sequential(Kind())
    one, other = (behaviour_of(network, sign * torch.ones(1, 3, 2, 2)) for sign in (1, -1))
    assert None not in (one, other)
    assert one != other


def test_looking_at_a_network_leaves_no_trace() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = network[1].running_mean.clone()
    random = torch.get_rng_state()
    with torch.no_grad():
        assert behaviour_of(network, torch.randn(1, 3, 12, 12, generator=torch.Generator()))
    assert torch.equal(network[1].running_mean, before)
    assert not network[0]._forward_hooks
    assert network.training
    assert torch.equal(torch.get_rng_state(), random)

"""Targets: any dotted path to a callable, and messages that name what could be imported."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from layer_atlas.config.config import ModelConfig
from layer_atlas.errors import UserError
from layer_atlas.imports import import_callable
from layer_atlas.models.load import Network, load_network

SOURCE = """
import functools
from torch import nn

class Net(nn.Conv2d):
    class Small(nn.Conv2d):
        def __init__(self):
            super().__init__(3, 2, 1)

    def __init__(self, width=4):
        super().__init__(3, width, 1)

    @classmethod
    def from_pretrained(cls, width=5):
        return cls(width)

class Factories:
    class Inner:
        @staticmethod
        def build():
            return Net(6)

narrow = functools.partial(Net, width=1)
ready = Net(7)
VERSION = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a package whose __init__ has a function of its module's name."""
    package = tmp_path / "own_package"
    (package / "parts").mkdir(parents=True)
    (package / "parts" / "__init__.py").touch()
    (package / "parts" / "net.py").write_text(SOURCE)
    (package / "builder.py").write_text("def other():\n    pass\n")
    (package / "__init__.py").write_text(
        "from own_package.parts.net import Net\ndef builder():\n    return Net(8)\n"
    )
    (package / "broken.py").write_text("import a_library_that_is_not_installed\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_package")]:
        del sys.modules[name]


def load(target: str) -> Network:
    return load_network(ModelConfig("net", target=target, weights="none"))


@pytest.mark.parametrize(
    ("target", "width"),
    [
        ("own_package.parts.net.Net", 4),
        ("own_package.parts.net:Net", 4),
        ("own_package.parts.net.Net.Small", 2),
        ("own_package.parts.net:Net.Small", 2),
        ("own_package.parts.net.Net.from_pretrained", 5),
        ("own_package.parts.net:Net.from_pretrained", 5),
        ("own_package.parts.net.Factories.Inner.build", 6),
        ("own_package.parts.net.narrow", 1),
        ("own_package.parts.net.ready", 7),
        ("own_package.Net.from_pretrained", 5),
        ("own_package.builder", 8),
        ("own_package:builder", 8),
    ],
)
def test_any_dotted_path_is_found(target: str, width: int, folder: Path) -> None:
    network = load(target)
    assert isinstance(network.module, nn.Conv2d)
    assert network.module.out_channels == width
    assert network.source == target
    # It can be built a second time, without sharing tensors.
    fresh = network.fresh()
    assert torch.equal(fresh.weight, network.module.weight)
    assert fresh.weight.data_ptr() != network.module.weight.data_ptr()


def test_a_network_that_exists_already_keeps_its_weights(folder: Path) -> None:
    own = import_callable("own_package.parts.net.ready", "target", "")
    assert isinstance(own, nn.Conv2d)
    before = own.weight.clone()
    network = load("own_package.parts.net.ready")
    assert torch.equal(network.module.weight, before)
    assert network.module is not own
    assert own.training


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("own_pakage.parts.net.Net", ["no module 'own_pakage'", "nearest: own_package"]),
        ("own_package.prts.net.Net", ["module 'own_package' has no 'prts'", "nearest: parts"]),
        ("own_package.parts.ne.Net", ["module 'own_package.parts' has no 'ne'", "nearest: net"]),
        ("own_package.parts.net.Nte", ["module 'own_package.parts.net' has no 'Nte'", "Net"]),
        (
            "own_package.parts.net.Net.from_pretraned",
            ["class 'own_package.parts.net.Net' has no 'from_pretraned'", "from_pretrained"],
        ),
        ("own_package.parts.net:Nte", ["module 'own_package.parts.net' has no 'Nte'", "Net"]),
        ("own_package.parts.net", ["is a module", "name a callable in it", "Net"]),
        ("torchvison.models.resnet18", ["no module 'torchvison' (nearest: torchvision"]),
        ("own_package.parts.net.VERSION", ["is int, not a callable"]),
        ("own_package.broken.build", ["No module named 'a_library_that_is_not_installed'"]),
        ("own_package/parts/net.py:Net", ["such as 'own_package.parts.net.Net'"]),
        ("Net", ["no module 'Net'", "dotted name"]),
    ],
)
def test_errors_name_the_longest_part_that_exists(
    target: str, words: list[str], folder: Path
) -> None:
    with pytest.raises(UserError) as caught:
        load(target)
    for word in (repr(target), *words):
        assert word in str(caught.value)


@pytest.mark.slow
def test_the_working_folder_counts_without_being_on_the_path(folder: Path) -> None:
    code = (
        "from layer_atlas.imports import import_callable\n"
        "print(import_callable('own_package.parts.net.Net.from_pretrained', 'target', '')())"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert "Net(3, 5" in done.stdout, done.stderr


@pytest.mark.parametrize("target", ["qqq.build", "own_package.parts.net.qqq"])
def test_names_that_nobody_can_have_meant_are_not_listed(target: str, folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(target)
    assert "nearest" not in str(caught.value)


def test_of_a_module_its_own_names_are_listed(folder: Path) -> None:
    with pytest.raises(UserError, match="name a callable in it, such as Net"):
        load("own_package.parts.net")

"""The code of a network is part of what it is: meaning counts, layout does not."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import timm
from torch import nn
from torchvision import models as zoo

from layer_atlas.models import digests
from layer_atlas.models.digests import code_digest

SOURCE = """
from torch import nn
from {helper} import scale

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return scale(self.conv(x))
"""
HELPER = """
def scale(x):
    return x * 2
"""


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a network and what it imports, imports them, and takes the digest."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))

    def digest(source: str = SOURCE, helper: str = HELPER) -> str:
        (tmp_path / "own_net.py").write_text(source.format(helper="own_helper"))
        (tmp_path / "own_helper.py").write_text(helper)
        for name in ("own_net", "own_helper"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        digests._read.cache_clear()
        sys.dont_write_bytecode = True
        return code_digest(importlib.import_module("own_net").Net())

    return digest


def test_comments_docstrings_and_layout_do_not_count(digest) -> None:
    commented = SOURCE.replace("class Net", '"""A file."""\n\n\n# A class.\nclass Net').replace(
        "    def forward(self, x):\n", '    def forward(self, x):\n        """Twice."""\n\n'
    )
    assert digest(commented) == digest()


@pytest.mark.parametrize(
    ("source", "helper"),
    [
        (SOURCE.replace("scale(self.conv(x))", "scale(self.conv(x)) + 0.1"), HELPER),
        (SOURCE, HELPER.replace("* 2", "* 3")),
        (SOURCE.replace("3, 2, 1)", "3, 2, 1, padding=1)"), HELPER),
    ],
    ids=["forward", "what it imports", "constructor"],
)
def test_what_the_code_means_counts(digest, source: str, helper: str) -> None:
    assert digest(source, helper) != digest()


CONSTANT = SOURCE.replace("import scale", "import FACTOR").replace("scale(", "FACTOR * (")
INSIDE = SOURCE.replace("from {helper} import scale\n", "").replace(
    "        return scale", "        from {helper} import scale\n        return scale"
)


@pytest.mark.parametrize("source", [CONSTANT, INSIDE], ids=["a constant", "inside of a function"])
def test_whatever_is_imported_counts(digest, source: str) -> None:
    helper = HELPER + "\nFACTOR = 2\n"
    before = digest(source, helper)
    assert digest(source, helper) == before
    assert digest(source, helper.replace("2", "3")) != before


def test_what_was_run_in_between_does_not_count(digest) -> None:
    before = digest(INSIDE)
    importlib.import_module("own_helper")
    assert code_digest(sys.modules["own_net"].Net()) == before


def test_modules_of_packages_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    files = {
        "own_package/__init__.py": "from .nets import Net",
        "own_package/nets.py": "from torch import nn\nfrom .parts import far\n"
        "from . import parts as p\n\nclass Net(nn.Module):\n    pass\n",
        "own_package/parts/__init__.py": "from ..numbers import ONE as one",
        "own_package/parts/far.py": "TWO = 2",
        "own_package/numbers.py": "ONE = 1",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    importlib.invalidate_caches()
    net = importlib.import_module("own_package").Net()
    different = {code_digest(net)}
    for number, name in enumerate(files):
        digests._read.cache_clear()
        (tmp_path / name).write_text(f"{files[name]}\nMORE = {number}\n")
        different.add(code_digest(net))
    assert len(different) == len(files) + 1


def test_installed_packages_count_by_their_version(monkeypatch: pytest.MonkeyPatch) -> None:
    network = zoo.squeezenet1_1(weights=None)
    before = code_digest(network)
    assert code_digest(zoo.squeezenet1_1(weights=None)) == before
    version = digests.metadata.version
    monkeypatch.setattr(
        digests.metadata, "version", lambda name: "0.0" if name == "torchvision" else version(name)
    )
    assert code_digest(network) != before
    assert code_digest(nn.Conv2d(3, 2, 1)) == code_digest(nn.Conv2d(3, 2, 1))


def test_networks_of_different_packages_differ() -> None:
    nets: list[nn.Module] = [nn.Conv2d(3, 2, 1), zoo.squeezenet1_1(weights=None)]
    nets.append(timm.create_model("test_efficientnet"))
    assert len({code_digest(network) for network in nets}) == 3


def test_torch_itself_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_digest(nn.Conv2d(3, 2, 1))
    monkeypatch.setattr(digests.metadata, "version", lambda name: "0.0")
    assert code_digest(nn.Conv2d(3, 2, 1)) == before


def test_classes_typed_into_a_session_count_by_their_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = ModuleType("session")
    monkeypatch.setitem(sys.modules, "session", session)
    net = type("Net", (nn.Module,), {"__module__": "session"})()
    different = set()
    for text in ("class Net: x = 1", "class Net: x = 2", "class Net:  x = 2  # two"):
        monkeypatch.setattr(digests.inspect, "getsource", lambda cls, text=text: text)
        different.add(code_digest(net))
    assert len(different) == 2

"""Published architectures: what is stored is what a plain hook reads, for every family.

    python -m pytest tests/models/test_zoo_truth.py -s | grep '^|'

prints the table of `docs/networks.md`.
"""

import importlib.util
import re

import pytest
from docs_pages import ROOT
from models import zoo

FAST = (*("squeezenet1_1", "timm/lcnet_035", "timm/deit_tiny_distilled_patch16_224"),)
"""Small ones of different kinds, which go through every time."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in zoo.ZOO]
)
def test_stored_activations_are_those_of_a_plain_hook(name: str) -> None:
    if name.startswith(zoo.TIMM) and importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    print(f"\n{zoo.examine(name)}")


def test_the_table_in_the_docs_has_every_network() -> None:
    page = (ROOT / "docs" / "networks.md").read_text()
    listed = re.findall(r"^\| `([^`]+)` \| `", page, flags=re.MULTILINE)
    assert listed == list(zoo.ZOO)

"""Layer Atlas: batch feature visualization (activation maximization) of whole vision models.

From Python: `visualize` makes images for a network in memory, `run` runs a sweep, `open_atlas`
reads what it left.
"""

import importlib
import logging
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layer_atlas.errors import UserError as UserError
    from layer_atlas.presentation.notebook import open_atlas as open_atlas
    from layer_atlas.sweep.api import run as run
    from layer_atlas.sweep.api import visualize as visualize

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "open_atlas", "run", "visualize"]

_HOMES = {
    "UserError": "errors",
    "open_atlas": "presentation.notebook",
    "run": "sweep.api",
    "visualize": "sweep.api",
}
"""Modules of the public names."""

# Otherwise MKL sums a row in an order that depends on where in memory it lies, and so on its place
# in a batch. It reads this before its first product, which only an import at the start precedes.
os.environ.setdefault("MKL_CBWR", "AUTO")

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    # Imported at their first use: the command line starts without the reader and without torch.
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

"""Layer Atlas: batch feature visualization (activation maximization) of whole vision models."""

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layer_atlas.presentation.notebook import open_atlas as open_atlas

__version__ = "0.1.0"
__all__ = ["__version__", "open_atlas"]

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    # The command line starts in a tenth of a second less without the reader.
    if name == "open_atlas":
        from layer_atlas.presentation.notebook import open_atlas

        return open_atlas
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

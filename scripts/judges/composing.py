"""Configs from overrides, as the command line composes them."""

import sys
from collections.abc import Sequence

from layer_atlas.config.compose import with_config
from layer_atlas.config.config import Config
from layer_atlas.errors import EXIT_OK


def compose(overrides: Sequence[str]) -> Config:
    """Compose the config that `atlas run` would get; raises UserError."""
    composed: list[Config] = []

    def keep(config: Config) -> int:
        composed.append(config)
        return EXIT_OK

    argv = sys.argv  # Hydra composes what it reads there
    try:
        with_config(keep, overrides)
    finally:
        sys.argv = argv
    return composed[0]

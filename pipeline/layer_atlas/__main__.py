"""`python -m layer_atlas`, the same as `atlas`."""

import sys

from layer_atlas.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())

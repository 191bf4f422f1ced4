"""Images on disk, and what every channel answers to them."""

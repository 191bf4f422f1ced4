"""Layer Atlas: the image that excites every channel of every layer of a vision model."""

__version__ = "0.1.0"

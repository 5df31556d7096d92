"""The version of this package: what files record of who wrote them, and what an image is tagged with."""

__version__ = "0.1.0"

"""The main job, `marrow make`: from images to a small, proven model."""

from .job import make

__all__ = ["make"]

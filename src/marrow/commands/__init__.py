"""The commands: parse, call, print. Nothing heavy is imported before one runs; the help lists them in this order."""

from .app import Stopped, app

from . import main_job, recipes, catalogue, models  # isort: skip

__all__ = ["Stopped", "app", "catalogue", "main_job", "models", "recipes"]

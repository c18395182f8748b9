"""Pipelines: from a file to a graph of stages, and from there to artifacts.

`read` turns a file into a `Pipeline`, or into a `ConfigError` that holds every mistake of it.
"""

from vaepipe.pipeline.config import Pipeline as Pipeline
from vaepipe.pipeline.config import read as read

__all__ = ["Pipeline", "read"]

"""The report: one self-contained page and its figures, from artifacts alone."""

from vaepipe.pipeline.report.page import build as build
from vaepipe.pipeline.report.section import Sample as Sample
from vaepipe.pipeline.report.section import Section as Section
from vaepipe.pipeline.report.section import Worst as Worst

__all__ = ["Sample", "Section", "Worst", "build"]

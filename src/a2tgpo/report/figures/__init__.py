"""The series behind every figure of the page; exports and page draw the same numbers."""

from a2tgpo.report.figures.sections import SECTIONS, figures_of
from a2tgpo.report.figures.series import Arm, Figure, Kind, Series, arms_of

__all__ = ["SECTIONS", "Arm", "Figure", "Kind", "Series", "arms_of", "figures_of"]

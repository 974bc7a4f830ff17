"""Where the cycles of a program go: figures, a page to look at, and files for other tools."""

from systolith.report.page import render
from systolith.report.profile import EngineTime, LayerTime, Profile, Span, profile
from systolith.report.tables import layer_table, performance, trace

__all__ = [
    "EngineTime",
    "LayerTime",
    "Profile",
    "Span",
    "layer_table",
    "performance",
    "profile",
    "render",
    "trace",
]

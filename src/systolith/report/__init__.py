"""Where the cycles of a program go: figures, a page to look at, and files for other tools."""

from systolith.report.page import render
from systolith.report.profile import EngineTime, LayerTime, Measured, Profile, Span, profile
from systolith.report.tables import engine_table, layer_table, performance, trace

__all__ = [
    "EngineTime",
    "LayerTime",
    "Measured",
    "Profile",
    "Span",
    "engine_table",
    "layer_table",
    "performance",
    "profile",
    "render",
    "trace",
]

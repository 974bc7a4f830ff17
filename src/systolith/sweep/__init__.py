"""Design-space exploration: models on many cores, estimated, not simulated."""

from systolith.sweep.area import Area, area_of
from systolith.sweep.front import front, picture, together
from systolith.sweep.points import Point, expand
from systolith.sweep.run import Work, measure, sweep

__all__ = [
    "Area",
    "Point",
    "Work",
    "area_of",
    "expand",
    "front",
    "measure",
    "picture",
    "sweep",
    "together",
]

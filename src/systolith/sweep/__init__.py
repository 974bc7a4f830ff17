"""Design-space exploration: one model on many cores, estimated, not simulated."""

from systolith.sweep.area import Area, area_of
from systolith.sweep.front import front, picture
from systolith.sweep.points import Point, expand
from systolith.sweep.run import measure, sweep

__all__ = ["Area", "Point", "area_of", "expand", "front", "measure", "picture", "sweep"]

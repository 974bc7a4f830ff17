"""The core for FuseSoC: a folder with core files, and the generator that they call.

`python -m systolith_boards.fusesoc` prints the folder, for `fusesoc --cores-root`.
"""

from pathlib import Path

CORES_ROOT = Path(__file__).parent
"""Where the core files are."""

__all__ = ["CORES_ROOT"]

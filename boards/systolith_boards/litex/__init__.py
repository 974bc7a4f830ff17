"""The core in a system on chip that LiteX makes.

In a LiteX target of yours::

    from systolith_boards.litex import add_systolith

    add_systolith(self, preset="ecp5-25k")

`python -m systolith_boards.litex --help` makes a whole system with a VexRiscv processor, and boots
a program on it in Verilator.
"""

import importlib.util

if importlib.util.find_spec("litex") is None or importlib.util.find_spec("migen") is None:
    raise ImportError(
        "systolith_boards.litex needs LiteX: pip install 'systolith[soc]', or as LiteX's wiki "
        "says it, which also gets its board files"
    )

from systolith_boards.litex.core import Systolith, add_systolith, registers_csv
from systolith_boards.litex.soc import ExampleSoc, write_soc

__all__ = ["ExampleSoc", "Systolith", "add_systolith", "registers_csv", "write_soc"]

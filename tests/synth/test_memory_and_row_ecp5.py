"""What scratchpad and ROW engine cost on ECP5. `scripts/fmax.py` measures how fast they are."""

from collections.abc import Callable

import pytest
from amaranth.lib import wiring

from systolith.config import preset
from systolith_rtl.memory.scratchpad import Scratchpad
from systolith_rtl.vector.row import RowEngine
from systolith_sim.yosys import synthesize_ecp5

pytestmark = pytest.mark.synth


@pytest.mark.parametrize(
    ("make", "blocks", "luts", "registers"),
    [
        (lambda: Scratchpad(preset("tiny")), 8, 1060, 505),
        (lambda: RowEngine(preset("tiny")), 0, 815, 985),
    ],
    ids=["scratchpad", "row"],
)
def test_area(make: Callable[[], wiring.Component], blocks: int, luts: int, registers: int) -> None:
    """Block RAMs exactly, and no DSP; LUTs and registers within 10 % of what it took."""
    cells, _ = synthesize_ecp5(make())
    assert cells.get("DP16KD", 0) == blocks
    assert "MULT18X18D" not in cells
    assert cells["LUT4"] <= luts
    assert cells["TRELLIS_FF"] <= registers

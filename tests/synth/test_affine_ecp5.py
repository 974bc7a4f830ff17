"""What an `Affine` lane costs on ECP5. `scripts/fmax.py` measures how fast it is."""

import pytest

from systolith_rtl.vector.affine import Affine, AffineConfig
from systolith_sim.yosys import synthesize_ecp5

pytestmark = pytest.mark.synth


@pytest.mark.parametrize(
    ("config", "dsps", "luts", "registers"),
    [
        (AffineConfig(), 3, 581, 775),
        (AffineConfig(auxiliary=False), 2, 470, 470),
    ],
    ids=str,
)
def test_area(config: AffineConfig, dsps: int, luts: int, registers: int) -> None:
    """DSP blocks exactly; LUTs and registers within 10 % of what it took when written."""
    cells, _ = synthesize_ecp5(Affine(config))
    assert cells["MULT18X18D"] == dsps
    assert cells["LUT4"] <= luts
    assert cells["TRELLIS_FF"] <= registers

"""What is proved of `Scratchpad` for all requests, rather than tried on some."""

from collections.abc import Sequence

import pytest
from amaranth.hdl import Assert, Cat, Fragment, Module, Signal, Value
from amaranth.lib import wiring

from systolith.config import BANKS, CoreConfig
from systolith_rtl.interfaces import READ_LATENCY
from systolith_rtl.memory.block_ram import BlockRam
from systolith_rtl.memory.scratchpad import Scratchpad
from systolith_sim.toolchain import ToolError
from systolith_sim.yosys import prove

pytestmark = pytest.mark.synth

CONFIG = CoreConfig(
    rows=4,
    columns=4,
    scratchpad_bytes=BANKS * 16 * 4,
    ring_bytes=64,
    row_slots=32,
    axi_data_bits=32,
)
"""As small as a scratchpad can be: arbiters and timing are those of any other."""


class WithoutContents:
    """A platform whose block RAMs are empty: the prover knows no memory, and needs none here."""

    def get_block_ram(self, ram: BlockRam) -> Module:
        """Build nothing."""
        return Module()


class ArbitrationProperty(wiring.Component):
    """A scratchpad, and the assertions that it grants as promised and answers what it granted.

    Args:
        latency: cycles from a grant to the answer.
    """

    read: Sequence[wiring.PureInterface]
    write: Sequence[wiring.PureInterface]

    def __init__(self, *, latency: int = READ_LATENCY) -> None:
        self.latency = latency
        self.scratchpad = Scratchpad(CONFIG)
        super().__init__(dict(self.scratchpad.signature.members))

    def elaborate(self, platform: object) -> Module:
        """Look at the ports alone."""
        m = Module()
        dut = self.scratchpad
        m.submodules.scratchpad = Fragment.get(dut, WithoutContents())
        for outer, inner in zip([*self.read, *self.write], [*dut.read, *dut.write], strict=True):
            wiring.connect(m, wiring.flipped(outer), inner)
        for ports in (dut.read, dut.write):
            for bank in range(BANKS):
                wants = [port.valid & (port.address // CONFIG.bank_words == bank) for port in ports]
                for index, port in enumerate(ports):
                    refused = wants[index] & ~port.ready
                    first = ~Cat(wants[:index]).any()
                    m.d.comb += [
                        Assert(~(refused & first), "the first of a bank was refused"),
                        Assert(~(wants[index] & port.ready & ~first), "a bank granted twice"),
                    ]
        for port in dut.read:
            granted: Value = port.valid & port.ready
            for stage in range(self.latency):
                delayed = Signal(name=f"granted{stage}")
                m.d.sync += delayed.eq(granted)
                granted = delayed
            m.d.comb += Assert(port.data_valid == granted, "an answer out of time")
        return m


def test_each_bank_grants_its_first_and_answers_in_time() -> None:
    """One reader and one writer of each bank, always the first; an answer for each grant."""
    prove(ArbitrationProperty())


def test_proof_fails_for_another_latency() -> None:
    with pytest.raises(ToolError, match="granted"):
        prove(ArbitrationProperty(latency=READ_LATENCY - 1))

"""What is proved of `Scratchpad` for all requests, rather than tried on some."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from amaranth.hdl import Assert, Cat, Fragment, Module, Signal, Value
from amaranth.lib import wiring

from systolith.config import BANKS, CoreConfig
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

WIDE = replace(CONFIG, scratchpad_bytes=128 << 10)
"""Likewise of those whose block RAMs have registers on both ways."""


class WithoutContents:
    """A platform whose block RAMs are empty: the prover knows no memory, and needs none here."""

    def get_block_ram(self, ram: BlockRam) -> Module:
        """Build nothing."""
        return Module()


class ArbitrationProperty(wiring.Component):
    """A scratchpad, and the assertions that it grants as promised and answers what it granted.

    Args:
        config: of the core.
        latency: cycles from a grant to the answer, or None for the core's own.
    """

    read: Sequence[wiring.PureInterface]
    write: Sequence[wiring.PureInterface]

    def __init__(self, config: CoreConfig, *, latency: int | None = None) -> None:
        self.config = config
        self.latency = config.read_latency if latency is None else latency
        self.scratchpad = Scratchpad(config)
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
                wants = [
                    port.valid & (port.address // self.config.bank_words == bank) for port in ports
                ]
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


@pytest.mark.parametrize("config", [CONFIG, WIDE], ids=["small", "wide"])
def test_each_bank_grants_its_first_and_answers_in_time(config: CoreConfig) -> None:
    """One reader and one writer of each bank, always the first; an answer for each grant."""
    prove(ArbitrationProperty(config))


@pytest.mark.parametrize("config", [CONFIG, WIDE], ids=["small", "wide"])
def test_proof_fails_for_another_latency(config: CoreConfig) -> None:
    with pytest.raises(ToolError, match="read4_1"):
        prove(ArbitrationProperty(config, latency=config.read_latency - 1))

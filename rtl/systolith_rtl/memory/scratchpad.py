"""The scratchpad: four banks that everybody shares, each with one read and one write a cycle."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.config import BANKS, CoreConfig
from systolith_rtl.interfaces import WRITE_LATENCY, ReadSignature, WriteSignature
from systolith_rtl.memory.block_ram import BlockRam
from systolith_rtl.memory.wide import WideBanks
from systolith_rtl.pipeline import unless_idle

READERS = 5
"""Read ports, in order of priority: GEMM A, GEMM B, VECTOR x, VECTOR r, DMA."""

WRITERS = 2
"""Write ports, in order of priority: VECTOR, LOAD."""

LATENCY = 1 + BlockRam.LATENCY + 1
"""Cycles of a read with a register before the block RAM and one behind it: of small scratchpads."""

BANK_WIDTH = (BANKS - 1).bit_length()
"""Bits of an address that choose the bank: the highest ones."""


class Scratchpad(wiring.Component):
    """Words of R bytes behind five readers and two writers.

    A bank is a quarter of the addresses. In each cycle, it grants the first of the readers that
    ask for it, and the first of the writers; the others see `ready` low and clash. Different
    banks do not know of each other. `ready` does not wait for `valid`: it tells of others alone.

    ::

        grant -> request, one per bank -> block RAM, two cycles -> data, one register per reader

    A large one has more registers on both ways: see `WideBanks`.

    A granted read is answered `read_latency` cycles later, whatever happens in between, so the
    reads of one reader are answered in their order. A write that is granted in one cycle is seen
    by reads that are granted from the next one on: both reach the block RAM equally late. Between
    answers, `data` keeps the last one.

    Members:
        read: `In(ReadSignature(config)).array(READERS)`.
        write: `In(WriteSignature(config)).array(WRITERS)`.
        clashes: `Out(3)`, how many requests were refused two cycles ago.
    """

    read: Sequence[wiring.PureInterface]
    write: Sequence[wiring.PureInterface]
    clashes: Signal

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "read": In(ReadSignature(config)).array(READERS),
                "write": In(WriteSignature(config)).array(WRITERS),
                # At most all but one of either kind: five.
                "clashes": Out(range(READERS + WRITERS - 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build each bank with its two arbiters, then the way back to each reader."""
        m = Module()
        assert WRITE_LATENCY >= 1
        if self.config.read_latency == LATENCY:
            self._build_banks(m, platform)
        else:
            WideBanks(m, platform, self.config, read=self.read, write=self.write)

        ports = [*self.read, *self.write]
        asked = Signal(len(ports))
        granted = Signal(len(ports))
        for group in (self.read, self.write):
            for index, port in enumerate(group):
                # The same as `Cat(bank[index] for bank in grants).any()`, but apart from what
                # chooses the data, which goes to hundreds of multiplexers.
                before = group[:index]
                clash = Cat(
                    first.valid & (bank_of(first.address) == bank_of(port.address))
                    for first in before
                ).any()
                m.d.comb += port.ready.eq(~clash)
        # Registered as they are: `ready` is late enough without anything behind it.
        m.d.sync += asked.eq(Cat(port.valid for port in ports))
        m.d.sync += granted.eq(Cat(port.ready for port in ports))
        refused = asked & ~granted
        m.d.comb += [port.refused.eq(refused[index]) for index, port in enumerate(ports)]
        m.d.sync += self.clashes.eq(sum(refused))
        return m

    def _build_banks(self, m: Module, platform: object) -> None:
        """Build the banks of a small scratchpad, and the way back from them."""
        rams = []
        grants = []
        for bank in range(BANKS):
            m.submodules[f"bank{bank}"] = ram = BlockRam(
                width=8 * self.config.rows, depth=self.config.bank_words, granularity=8
            )
            rams.append(ram)
            grants.append(_connect_readers(m, platform, bank, ram, self.read))
            _connect_writers(m, platform, bank, ram, self.write)
        for index, port in enumerate(self.read):
            _answer(m, f"read{index}", port, Cat(bank[index] for bank in grants), rams)


def _connect_readers(
    m: Module,
    platform: object,
    bank: int,
    ram: BlockRam,
    ports: Sequence[wiring.PureInterface],
) -> Signal:
    """Register the request of the first reader that asks for a bank; return who it is."""
    wanted, grants = _arbitrate(m, f"bank{bank}_read", bank, ports)
    with m.If(unless_idle(platform, wanted.any())):
        m.d.sync += ram.read_address.eq(_first(wanted, [row_of(port.address) for port in ports]))
    m.d.sync += ram.read_enable.eq(wanted.any())
    return grants


def _connect_writers(
    m: Module,
    platform: object,
    bank: int,
    ram: BlockRam,
    ports: Sequence[wiring.PureInterface],
) -> None:
    """Register the request of the first writer that asks for a bank."""
    wanted, _ = _arbitrate(m, f"bank{bank}_write", bank, ports)
    with m.If(unless_idle(platform, wanted.any())):
        m.d.sync += [
            ram.write_address.eq(_first(wanted, [row_of(port.address) for port in ports])),
            ram.write_data.eq(_first(wanted, [port.data for port in ports])),
        ]
    mask = _first(wanted, [port.mask for port in ports])
    m.d.sync += ram.write_enable.eq(mask & wanted.any().replicate(len(mask)))


def _answer(
    m: Module,
    name: str,
    port: wiring.PureInterface,
    grants: Value,
    rams: Sequence[BlockRam],
) -> None:
    """Follow a reader's grants, one bit per bank, through the block RAM; register the answer."""
    for stage in range(LATENCY - 2):
        delayed = Signal(BANKS, name=f"{name}_{stage}")
        m.d.sync += delayed.eq(grants)
        grants = delayed
    arrives = Signal(name=f"{name}_arrives")
    index = Signal(BANK_WIDTH, name=f"{name}_bank", reset_less=True)
    m.d.sync += arrives.eq(grants.any())
    m.d.sync += index.eq(Cat(grants[1] | grants[3], grants[2] | grants[3]))
    data = Signal.like(port.data, name=f"{name}_data", reset_less=True)
    with m.If(arrives):
        low = Mux(index[0], rams[1].read_data, rams[0].read_data)
        high = Mux(index[0], rams[3].read_data, rams[2].read_data)
        m.d.sync += data.eq(Mux(index[1], high, low))
    m.d.sync += port.data_valid.eq(arrives)
    m.d.comb += port.data.eq(data)


def _arbitrate(
    m: Module, name: str, bank: int, ports: Sequence[wiring.PureInterface]
) -> tuple[Signal, Signal]:
    """Return who wants a bank, and the first of them alone."""
    wanted = Signal(len(ports), name=f"{name}_wanted")
    grants = Signal(len(ports), name=f"{name}_grants")
    m.d.comb += wanted.eq(Cat(port.valid & (bank_of(port.address) == bank) for port in ports))
    m.d.comb += grants.eq(wanted & ~(wanted - 1)[: len(ports)])
    return wanted, grants


def bank_of(address: Value) -> Value:
    """Return the bank of a word's address."""
    return address[-BANK_WIDTH:]


def row_of(address: Value) -> Value:
    """Return the address within the bank."""
    return address[:-BANK_WIDTH]


def _first(wanted: Value, values: Sequence[Value]) -> Value:
    """Return the value beside the lowest bit of `wanted`, or the last one."""
    result = values[-1]
    for index in reversed(range(len(values) - 1)):
        result = Mux(wanted[index], values[index], result)
    return result

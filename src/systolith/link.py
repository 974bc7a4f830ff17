"""The host link of boards: memory map, link registers and protocol, for gateware and driver alike.

Two protocols share a serial line. LiteX's uartbone lets other people's tools read and write words;
nothing in it notices a byte that was lost on the way. The commands here do: a header with a CRC-32
of its own comes before anything is done, and a frame is answered with a CRC-32.

All frames are made of bytes, words in them are big-endian, and each CRC is little-endian, as
`zlib.crc32` has it. A frame of the host:

    command  tag  address (4 bytes, of a word)  argument (4)  CRC (4, of what is before it)

WRITE goes on with as many words as `argument` says, and a CRC of the whole frame up to it. The
answer:

    ANSWER  tag  words (if any)  status  CRC (4, of what is before it)

A frame that does not arrive whole is answered with the single byte `REJECTED`. Then the link
listens to nothing until the line has been silent for `SILENCE_S`: what follows a lost byte is no
frame.
"""

from enum import IntEnum

from systolith.regs import Register

PROTOCOL_VERSION = 1
"""What the link register `version` reads."""

MAGIC = 0x4B4E_494C
"""What the link register `magic` reads: `LINK` in memory order."""

MEMORY_BASE = 0x0000_0000
"""Byte address of DRAM: the core's AXI addresses."""

CORE_BASE = 0xF000_0000
"""Byte address of the core's registers."""

LINK_BASE = 0xF000_1000
"""Byte address of the link's registers."""

SILENCE_S = 0.1
"""Seconds without a byte after which a frame that is not complete is dropped."""

HEADER_BYTES = 14
"""Of a frame of the host, its CRC included."""

ANSWER_BYTES = 7
"""Of an answer without words."""

MAX_WORDS = 0xFFFF
"""Words of one command."""

RECEIVE_BYTES = 32
"""What the link takes in while it is busy with a command, in bytes."""


class Command(IntEnum):
    """First byte of a frame; differs in at least 4 bits from each of uartbone's.

    POKE writes its argument to a word, once for each change of the tag: a repeated one is answered
    and not carried out. WRITE and READ move words to and from memory, from `address` on; READ may
    read registers, too. CHECK is a READ whose words count in the CRC but are not sent.
    """

    POKE = 0xF8
    WRITE = 0xF9
    READ = 0xFA
    CHECK = 0xFB


class Uartbone(IntEnum):
    """First byte of a frame of uartbone.

    Then come the number of words (1 byte), the address of a word (4 bytes) and, for writes, the
    words. A read is answered with words alone, a write with nothing.
    """

    WRITE = 1
    READ = 2
    WRITE_FIXED = 3
    READ_FIXED = 4


ANSWER = 0xA5
"""First byte of an answer."""

REJECTED = 0x5A
"""The answer to what is no frame."""


class Status(IntEnum):
    """Last byte of an answer before its CRC: what became of the command.

    After anything but OKAY, words from the one on that the bus refused mean nothing, or are lost;
    the rest of the command is not tried. An answer has all of its words nevertheless.
    """

    OKAY = 0
    NOTHING_THERE = 1
    BUS_ERROR = 2
    TIMEOUT = 3


class Flag(IntEnum):
    """Bits of the link register `status`."""

    MEMORY_READY = 0
    MEMORY_FAILED = 1
    INTERRUPT = 2


REGISTERS: tuple[Register, ...] = (
    Register(name="magic", offset=0x00, doc="The constant 0x4B4E494C."),
    Register(name="version", offset=0x04, doc="Version of the link's protocol."),
    Register(name="memory_bytes", offset=0x08, doc="Bytes of DRAM."),
    Register(name="clock_hz", offset=0x0C, doc="The core's clock in Hz."),
    Register(
        name="status",
        offset=0x10,
        doc="Bit 0: memory is ready; bit 1: its test failed; bit 2: the core's `irq`.",
    ),
    Register(
        name="line_errors",
        offset=0x14,
        doc="Bytes without a stop bit, and bytes that came too fast, modulo 256.",
    ),
    Register(
        name="frame_errors",
        offset=0x18,
        doc="Frames with a wrong CRC, a wrong command or an end missing, modulo 256.",
    ),
    Register(
        name="bus_errors",
        offset=0x1C,
        doc="Commands that met nothing, an error or no answer on a bus, modulo 256.",
    ),
    Register(name="scratch", offset=0x20, doc="Keeps what is written.", writable=True),
)
"""All link registers; every other address below `SPAN` reads 0."""

SPAN = 0x40
"""Bytes of the link's registers."""

BY_NAME: dict[str, Register] = {register.name: register for register in REGISTERS}
"""Link registers by name."""


def address(name: str) -> int:
    """Byte address of a link register on the link's bus.

    Raises:
        KeyError: there is none of that name.
    """
    return LINK_BASE + BY_NAME[name].offset

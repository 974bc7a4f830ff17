"""From a word of the scratchpad to the elements of a group, as signed words."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring

from systolith.config import CoreConfig
from systolith_rtl.pipeline import unless_idle

COPIES = 4
"""Registers at most that tell lanes what elements are, one from the other."""


def extend(
    m: Module,
    platform: object,
    config: CoreConfig,
    port: wiring.PureInterface,
    tag: Value,
    words: Value,
    signed: Value,
) -> Cat:
    """Return C words in the cycle after a read's: the granules that the tag names, extended.

    Registers hold two granules, of which a group of words takes both and one of bytes the one
    that the last bit of the tag names.

    Args:
        m: where to build.
        platform: see `unless_idle`.
        config: of the core.
        port: where the read's word comes from.
        tag: goes with it: the granule's number in the word.
        words: elements are s16.
        signed: bytes are s8, else u8.
    """
    width = 8 * config.columns
    word = port.data
    pair = Signal(2 * width, reset_less=True)
    if config.word_granules == 1:
        low = Signal(width, reset_less=True)
        with m.If(port.data_valid):
            m.d.sync += low.eq(word)
        wide = Cat(low, word)
        narrow = pair[width:]
    else:
        odd = Signal(reset_less=True)
        m.d.sync += odd.eq(tag[0])
        wide = word.word_select(tag[1:], 2 * width) if config.word_granules > 2 else word
        narrow = pair.word_select(odd, width)
    with m.If(unless_idle(platform, port.data_valid)):
        m.d.sync += pair.eq(wide)
    elements = []
    # They are all in time for the first word.
    assert config.read_latency >= COPIES
    lanes_per_copy = max(2, config.columns // COPIES)
    signs = signed & ~words
    for lane in range(config.columns):
        if lane % lanes_per_copy == 0:
            words = _steady(m, f"words{lane}", words, 1)
            signs = _steady(m, f"signs{lane}", signs, 0)
        byte = narrow.word_select(lane, 8)
        low, high = (pair.word_select(2 * lane + half, 8) for half in range(2))
        sign = (byte[-1] & signs).replicate(8)
        elements.append(Cat(Mux(words, low, byte), (high & words.replicate(8)) | sign))
    return Cat(elements)


def _steady(m: Module, name: str, value: Value, init: int) -> Signal:
    """Return a register of what stays as it is; of a constant `init`, it is one, too."""
    result = Signal(name=name, init=init, reset_less=True)
    m.d.sync += result.eq(value)
    return result

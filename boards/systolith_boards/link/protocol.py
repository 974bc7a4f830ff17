"""From bytes to words and back: uartbone, and the commands of `systolith.link`."""

from amaranth.hdl import Cat, Module, Mux, Signal, ValueLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.link import ANSWER, REJECTED, Command, Status, Uartbone
from systolith_boards.link.bus import WordSignature
from systolith_boards.link.crc import Crc

_WORD = 4
_HEADER = 9
"""Bytes of a header between command and CRC."""


class Protocol(wiring.Component):
    """Takes frames, carries them out, answers.

    One frame is carried out at a time; what comes meanwhile waits in `i`. What is no frame is
    skipped up to the next silence: after a command that there is not, a wrong CRC, a byte that was
    lost, or a frame that ends too early. If a `Command` came since the last silence, this is said
    with the byte `REJECTED`, and uartbone is not listened to: what follows a lost header could look
    like it.

    Members:
        i: `In(stream.Signature(8))`.
        silent: `In(1)`, nothing came for a while.
        error: `In(1)`, a byte was lost.
        o: `Out(stream.Signature(8))`.
        words: `Out(WordSignature())`.
        frame_error: `Out(1)`, for one cycle: something was no frame.
        bus_error: `Out(1)`, for one cycle: a command met a bus that did not do what it should.
    """

    i: stream.Interface
    silent: Signal
    error: Signal
    o: stream.Interface
    words: wiring.PureInterface
    frame_error: Signal
    bus_error: Signal

    def __init__(self) -> None:
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "silent": In(1),
                "error": In(1),
                "o": Out(stream.Signature(8)),
                "words": Out(WordSignature()),
                "frame_error": Out(1),
                "bus_error": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """One chain of bytes, tag, address, data, takes a header in and a word out.

        A byte keeps the CRC busy for eight cycles, in which no other one moves. So a state says
        cycles ahead what it wants, and learns a cycle late that it has it. A byte that comes when
        nobody wants it any more is one of those to be skipped.
        """
        m = Module()
        words, byte = self.words, self.i.payload
        m.submodules.crc = crc = Crc()

        # What the frame is.
        ours, poke, write, read, check, fixed = (
            Signal(name=name, reset_less=True)
            for name in ("ours", "poke", "write", "read", "chk", "fixed")
        )
        tag = Signal(8, reset_less=True)
        address = Signal(32, reset_less=True)
        data = Signal(32, reset_less=True)
        count = Signal(16, reset_less=True)
        status = Signal(Status, reset_less=True)
        last_tag = Signal(8)
        guarded = Signal()  # one of our commands came since the last silence
        broken = Signal()  # a byte was lost, and nobody has cared yet

        # What a state wants: a byte from the host, a byte to it, one of the CRC, one of several.
        wants = Signal()
        offers = Signal()
        quiet = Signal()  # the byte counts in the CRC only
        takes_crc = Signal()
        clears = Signal()  # the CRC begins anew
        several = Signal()
        # The same a cycle later, what moves when the other side wants it, too, and what has moved.
        wanting, offering, silently, from_crc, one_of_several = (
            Signal(name=name)
            for name in ("wanting", "offering", "silently", "from_crc", "one_of_several")
        )
        ready, due = Signal(), Signal()
        taken, given, passed = Signal(), Signal(), Signal()
        out = Signal(8, reset_less=True)
        moves = Signal()
        left = Signal(range(_HEADER), reset_less=True)
        final = Signal(reset_less=True)  # none is left
        ended = Signal()
        takes, gives = self.i.valid & ready, due & (silently | self.o.ready)
        m.d.comb += [
            self.i.ready.eq(ready),
            self.o.payload.eq(out),
            self.o.valid.eq(due & ~silently),
            crc.byte.eq(Mux(due, out, byte)),
            crc.feed.eq(takes | (gives & ~from_crc)),
            crc.take.eq(gives & from_crc),
            passed.eq(taken | given),
            ended.eq(passed & final),
            words.address.eq(address),
            words.write.eq(write),
            words.data.eq(data),
            words.memory_only.eq(ours & write & ~poke),
        ]
        m.d.sync += [
            wanting.eq(wants),
            offering.eq(offers),
            ready.eq(wanting & ~crc.busy & ~takes),
            due.eq(offering & ~crc.busy & ~gives),
            crc.clear.eq(clears),
            silently.eq(quiet),
            from_crc.eq(takes_crc),
            one_of_several.eq(several),
            taken.eq(takes),
            given.eq(gives),
        ]
        with m.If(moves | (one_of_several & passed)):
            m.d.sync += [left.eq(Mux(final, _WORD - 1, left - 1)), final.eq(left == 1)]
        with m.If(self.error):
            m.d.sync += broken.eq(1)

        # The chain moves yet a cycle later, which is early enough, too.
        shift_data, shift_all, load, step = (
            Signal(name=name) for name in ("shift_data", "shift_all", "load", "step")
        )
        moving_data, moving_all, loading, stepping = (
            Signal(name=name) for name in ("moving_data", "moving_all", "loading", "stepping")
        )
        came = Signal(8, reset_less=True)
        m.d.sync += [
            moving_data.eq(shift_data | shift_all),
            moving_all.eq(shift_all),
            loading.eq(load),
            stepping.eq(step & ~fixed),
        ]
        # It has the byte as long as the CRC does.
        with m.If(~crc.busy):
            m.d.sync += came.eq(byte)
        with m.If(moving_data | loading):
            m.d.sync += data.eq(Mux(loading, words.result, Cat(came, data)[:32]))
        with m.If(moving_all | stepping):
            m.d.sync += address.eq(Mux(moving_all, Cat(data[-8:], address)[:32], address + 1))
        with m.If(moving_all):
            m.d.sync += tag.eq(address[-8:])

        # What a frame is judged by stands still long before.
        names = "settling unsettled good none_left misfit again rejects"
        settling, unsettled, good, none_left, misfit, again, rejects = (
            Signal(name=name, reset_less=True) for name in names.split()
        )
        m.d.sync += [
            settling.eq(crc.busy),
            unsettled.eq(settling | crc.busy),
            rejects.eq(~good | (misfit & ~poke)),
            good.eq(crc.good),
            none_left.eq(count == 0),
            misfit.eq((data[16:] != 0) | (count == 0)),
            again.eq(tag == last_tag),
        ]

        stop = Signal()
        m.d.sync += [
            stop.eq(broken | self.silent),
            self.bus_error.eq(0),
            self.frame_error.eq(0),
        ]

        def receive() -> None:
            """Want a byte, unless there will be none that makes sense."""
            m.d.comb += wants.eq(~stop)
            with m.If(stop):
                m.next = "REJECT"

        def send(value: ValueLike) -> None:
            m.d.comb += offers.eq(1)
            m.d.sync += out.eq(value)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [wants.eq(~broken), clears.eq(1)]
                m.d.sync += [
                    status.eq(Status.OKAY),
                    left.eq(_HEADER - 1),
                    final.eq(0),
                    ours.eq(came[-1]),
                    poke.eq(came == Command.POKE),
                    write.eq(
                        (came == Command.POKE)
                        | (came == Command.WRITE)
                        | (came == Uartbone.WRITE)
                        | (came == Uartbone.WRITE_FIXED)
                    ),
                    read.eq(came == Command.READ),
                    check.eq(came == Command.CHECK),
                    fixed.eq((came == Uartbone.WRITE_FIXED) | (came == Uartbone.READ_FIXED)),
                ]
                with m.If(self.silent):
                    m.d.sync += guarded.eq(0)
                with m.If(taken):
                    m.next = "REJECT"
                    with m.Switch(came):
                        with m.Case(*Command):
                            m.d.sync += guarded.eq(1)
                            m.next = "HEADER"
                        with m.Case(*Uartbone), m.If(~guarded):
                            m.next = "LENGTH"
                with m.Elif(broken):
                    m.next = "REJECT"
            with m.State("HEADER"):
                receive()
                m.d.comb += [several.eq(1), shift_all.eq(taken)]
                with m.If(ended):
                    m.next = "HEADER-CRC"
            with m.State("HEADER-CRC"):
                receive()
                m.d.comb += several.eq(1)
                m.d.sync += count.eq(data)
                with m.If(ended):
                    m.next = "HEADER-END"
            with m.State("HEADER-END"):
                with m.If(poke):
                    m.d.sync += count.eq(1)
                with m.If(~unsettled):
                    with m.If(rejects):
                        m.next = "REJECT"
                    with m.Elif(poke & ~again):
                        m.next = "ACCESS"
                    with m.Elif(write & ~poke):
                        m.next = "WORD-IN"
                    with m.Else():
                        m.next = "ANSWER"
            with m.State("LENGTH"):
                receive()
                m.d.sync += [count.eq(came), left.eq(_WORD - 1), final.eq(0)]
                with m.If(taken):
                    m.next = "ADDRESS"
            with m.State("ADDRESS"):
                receive()
                m.d.comb += [several.eq(1), shift_all.eq(taken)]
                with m.If(ended):
                    m.next = "ADDRESS-END"
            with m.State("ADDRESS-END"):
                # The address is where words will be; it moves on to its place.
                m.d.comb += [several.eq(1), moves.eq(1), shift_all.eq(1)]
                with m.If(final):
                    with m.If(none_left):
                        m.next = "IDLE"
                    with m.Elif(write):
                        m.next = "WORD-IN"
                    with m.Else():
                        m.next = "ACCESS"
            with m.State("WORD-IN"):
                receive()
                m.d.comb += [several.eq(1), shift_data.eq(taken)]
                with m.If(ended):
                    m.next = "ACCESS"
            with m.State("ACCESS"):
                m.d.sync += count.eq(count - 1)
                m.d.comb += words.start.eq(status == Status.OKAY)
                m.next = "WAIT"
            with m.State("WAIT"):
                m.d.comb += load.eq(~write)
                with m.If(words.done):
                    m.d.sync += status.eq(words.status)
                with m.If(words.done | (status != Status.OKAY)):
                    m.next = "ACCESSED"
                m.d.sync += self.bus_error.eq(words.done & (words.status != Status.OKAY))
            with m.State("ACCESSED"):
                m.d.comb += step.eq(1)
                with m.If(~write):
                    m.next = "WORD-OUT"
                with m.Elif(~none_left):
                    m.next = "WORD-IN"
                with m.Elif(~ours):
                    m.next = "IDLE"
                with m.Elif(poke):
                    m.next = "ANSWER"
                with m.Else():
                    m.next = "WORDS-CRC"
            with m.State("WORD-OUT"):
                send(data[-8:])
                m.d.comb += [several.eq(1), quiet.eq(check), shift_data.eq(given)]
                with m.If(ended):
                    with m.If(~none_left):
                        m.next = "ACCESS"
                    with m.Elif(ours):
                        m.next = "STATUS"
                    with m.Else():
                        m.next = "IDLE"
            with m.State("WORDS-CRC"):
                receive()
                m.d.comb += several.eq(1)
                with m.If(ended):
                    m.next = "WORDS-END"
            with m.State("WORDS-END"), m.If(~settling):
                m.next = "REJECT"
                with m.If(good):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                send(ANSWER)
                m.d.comb += clears.eq(1)
                with m.If(given):
                    m.next = "TAG"
            with m.State("TAG"):
                send(tag)
                with m.If(given):
                    m.next = "STATUS"
                    with m.If(read | check):
                        m.next = "ACCESS"
            with m.State("STATUS"):
                send(status)
                with m.If(given):
                    # With another status, the host repeats it, and it is to be tried again.
                    with m.If(poke & (status == Status.OKAY)):
                        m.d.sync += last_tag.eq(tag)
                    m.next = "CRC"
            with m.State("CRC"):
                send(crc.o)
                m.d.comb += [several.eq(1), takes_crc.eq(1)]
                with m.If(ended):
                    m.next = "IDLE"
            with m.State("REJECT"):
                send(REJECTED)
                m.d.comb += quiet.eq(~guarded)
                m.d.sync += [broken.eq(0), self.frame_error.eq(given)]
                with m.If(given):
                    m.next = "SKIP"
            with m.State("SKIP"):
                m.d.comb += wants.eq(1)
                m.d.sync += broken.eq(0)
                with m.If(self.silent):
                    m.next = "IDLE"
        return m

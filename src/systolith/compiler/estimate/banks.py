"""The scratchpad's read ports: each bank serves one reader a cycle, in a fixed order."""

from enum import IntEnum

from systolith.compiler.estimate.kernel import Change, Kernel, Steps
from systolith.config import BANKS, CoreConfig


class ReadPort(IntEnum):
    """Readers, the first one goes first."""

    GEMM_A = 0
    GEMM_B = 1
    VECTOR_X = 2
    VECTOR_R = 3
    DMA = 4


class Bank:
    """One bank: who reads it, and until when."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._until = [0] * len(ReadPort)
        self._change = Change(kernel)

    def claim(self, port: ReadPort, until: int) -> None:
        """Read from now on in each cycle before `until`; nobody may go first."""
        self._until[port] = until
        self._change.notify()

    def read(self, port: ReadPort, words: int) -> Steps:
        """Read so many words, in all cycles that nobody before takes; ends after the last one."""
        kernel = self._kernel
        until = self._until
        left = words
        while left:
            busy = max(until[:port], default=0)
            if busy > kernel.now:
                yield busy
                continue
            begin = kernel.now
            until[port] = begin + left
            self._change.notify()
            yield begin + left, self._change
            left -= kernel.now - begin
            until[port] = kernel.now


class Banks:
    """All banks, and which of them a row lies in."""

    def __init__(self, kernel: Kernel, config: CoreConfig) -> None:
        self._banks = [Bank(kernel) for _ in range(BANKS)]
        self._granules = config.granules // BANKS

    def parts(self, address: int, row: int, rows: int) -> list[tuple[Bank, int]]:
        """Return the banks in which rows begin, in order, each with the number of rows there."""
        parts = list[tuple[Bank, int]]()
        while rows:
            index = min(address // self._granules, BANKS - 1)
            room = (index + 1) * self._granules - address
            count = rows if not row or index == BANKS - 1 else min(rows, -(-room // row))
            parts.append((self._banks[index], count))
            rows -= count
            address += count * row
        return parts

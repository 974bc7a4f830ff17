"""Where tensors lie in DRAM: what host and core exchange, and what leaves the scratchpad."""

from collections.abc import Iterable, Mapping

from systolith import isa
from systolith.compiler.allocate import Place, element_bytes
from systolith.compiler.blocks import Piece, tokens_of
from systolith.compiler.hazards import Region
from systolith.compiler.moves import Spill
from systolith.compiler.qgraph import Input, Output, QGraph, Tensor
from systolith.compiler.runs import image_binding, index_binding
from systolith.config import CoreConfig
from systolith.program import INPUT_BASE, OUTPUT_BASE, SCRATCH_BASE, Binding


class Homes:
    """DRAM addresses of tensors. All are whole there, row by row without gaps.

    Args:
        graph: as it came, not cut.
        pieces: for parts of its tensors, which; all others are whole.
        steps: what is stored there.
    """

    def __init__(
        self, graph: QGraph, pieces: Mapping[str, Piece], steps: Iterable[object] = ()
    ) -> None:
        self._graph = graph
        self._pieces = pieces
        inputs = [each for each in graph.operators if isinstance(each, Input)]
        tokens = tokens_of(graph) if inputs else 0
        self.inputs = self._bindings(INPUT_BASE, [each.out for each in inputs])
        for each in inputs:
            # An image is a model's only input, and so are lists.
            if each.patches is not None:
                self.inputs = (image_binding(each.patches),)
            if each.indices is not None:
                self.inputs = (index_binding(each.indices, tokens),)
        self.outputs = self._bindings(
            OUTPUT_BASE, [each.x for each in graph.operators if isinstance(each, Output)]
        )
        self._offsets: dict[str, int] = {}
        self._rows: dict[str, int] = {}
        self.scratch_bytes = 0
        self.scratch_rows = 0
        for step in steps:
            if isinstance(step, Spill):
                self._add(self.piece(step.x).tensor)

    def piece(self, name: str) -> Piece:
        """Which part of the graph's tensors a tensor is."""
        return self._pieces.get(name, Piece(tensor=name, top=0))

    def is_input(self, name: str) -> bool:
        """Whether a tensor is part of an input."""
        return any(each.name == self.piece(name).tensor for each in self.inputs)

    def transfer(
        self, name: str, tensor: Tensor, place: Place, config: CoreConfig, *, output: bool = False
    ) -> dict[str, int]:
        """Operands of a LOAD or STORE of a tensor.

        Args:
            name: of the tensor, in the cut graph.
            tensor: itself.
            place: where it lies in the scratchpad.
            config: the core.
            output: whether it goes to the host, instead of where it is fetched from.
        """
        piece = self.piece(name)
        whole = self._graph.tensors[piece.tensor]
        element = element_bytes(whole.format)
        stride = whole.columns * element
        size = tensor.columns * element
        base, offset = self._home(piece.tensor, output=output)
        fields = {
            "base": base,
            "dram_offset": offset + piece.top * stride + piece.first * element,
            "address": place.address,
        }
        if place.row * config.columns == size == stride:
            return fields | {"n0": size * tensor.rows, "n1": 1, "n2": 1}
        return fields | {
            "n0": size,
            "n1": tensor.rows,
            "n2": 1,
            "dram_stride1": stride,
            "stride1": place.row,
        }

    def region(self, name: str, rows: int) -> Region | None:
        """Rows of memory that the core itself writes, for waits; None for an input's."""
        piece = self.piece(name)
        if piece.tensor not in self._rows:
            return None
        return Region(resource="scratch", start=self._rows[piece.tensor] + piece.top, width=rows)

    def _home(self, tensor: str, *, output: bool) -> tuple[int, int]:
        bindings = self.outputs if output else self.inputs
        for binding in bindings:
            if binding.name == tensor:
                return binding.base, binding.offset
        return SCRATCH_BASE, self._offsets[tensor]

    def _add(self, name: str) -> None:
        if name in self._offsets:
            return
        tensor = self._graph.tensors[name]
        size = tensor.rows * tensor.columns * element_bytes(tensor.format)
        self._offsets[name] = self.scratch_bytes
        self._rows[name] = self.scratch_rows
        self.scratch_bytes += _aligned(size)
        self.scratch_rows += tensor.rows

    def _bindings(self, base: int, names: Iterable[str]) -> tuple[Binding, ...]:
        found: list[Binding] = []
        offset = 0
        for name in names:
            tensor = self._graph.tensors[name]
            found.append(
                Binding(
                    name=name,
                    base=base,
                    offset=offset,
                    rows=tensor.rows,
                    columns=tensor.columns,
                    format=tensor.format,
                    step=tensor.step,
                )
            )
            offset = _aligned(offset + found[-1].size)
        return tuple(found)


def _aligned(size: int) -> int:
    """Bytes up to where a base may be."""
    return -(-size // isa.BASE_ALIGNMENT) * isa.BASE_ALIGNMENT

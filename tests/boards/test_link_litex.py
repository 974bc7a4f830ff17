"""LiteX's own server and client, unmodified, on the link's protocol."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from systolith import regs
from systolith.config import PRESETS
from systolith.register_maps import board_csv
from systolith_sim.board_model import BoardModel
from systolith_sim.iss import IssDevice

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("litex") is None, reason="needs LiteX: pip install systolith[soc]"
)

CONFIG = PRESETS["tiny"]
MEMORY = 1 << 20

CLIENT = """
import sys
from litex import RemoteClient

client = RemoteClient(port=int(sys.argv[1]), csr_csv=sys.argv[2])
client.open()
registers = client.regs
print(hex(registers.systolith_id.read()))
low, high = registers.systolith_config_hash_lo.read(), registers.systolith_config_hash_hi.read()
print(hex(high << 32 | low))
registers.systolith_limit3.write(0x1234)
print(hex(registers.systolith_limit3.read()))
print(hex(registers.link_magic.read()), registers.link_memory_bytes.read())
base = client.mems.main_ram.base
client.write(base + 0x100, [0x01020304 + index for index in range(20)])
print(client.read(base + 0x100, 20) == [0x01020304 + index for index in range(20)])
print(client.mems.main_ram.size)
client.close()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def test_server_and_client(tmp_path: Path) -> None:
    (tmp_path / "csr.csv").write_text(board_csv(MEMORY))
    (tmp_path / "client.py").write_text(CLIENT)
    # LiteX of 2024 uses what Python 3.10 deprecated.
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    port = str(free_port())
    device = IssDevice(CONFIG, memory_bytes=MEMORY)
    with BoardModel(device) as board:
        command = [sys.executable, "-m", "litex.tools.litex_server"]
        server = subprocess.Popen(
            [*command, "--uart", "--uart-port", board.path, "--bind-port", port],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        try:
            end = time.monotonic() + 20
            while server.poll() is None and time.monotonic() < end:
                with socket.socket() as probe:
                    if probe.connect_ex(("localhost", int(port))) == 0:
                        break
                time.sleep(0.1)
            done = subprocess.run(
                [sys.executable, "client.py", port, "csr.csv"],
                env=environment,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
        finally:
            server.kill()
            server.wait()
    assert done.stdout.split() == [
        hex(regs.MAGIC),
        hex(CONFIG.hash),
        "0x1234",
        hex(int.from_bytes(b"LINK", "little")),
        str(MEMORY),
        "True",
        str(MEMORY),
    ], done.stderr
    expected = b"".join((0x01020304 + index).to_bytes(4, "little") for index in range(20))
    assert device.read_memory(0x100, 80) == expected
    assert board.rejected == 0

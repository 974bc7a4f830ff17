"""nextpnr while it runs: which stage it has come to, and whether its placer will ever end."""

import re
import subprocess
import threading
import time
from pathlib import Path

from systolith_sim.toolchain import Announce

STATIC_STEPS = 700
"""Steps after which `static` is given up: it waits for cells on one spot to leave each other, which
they may never do. Cores take 400 to 550."""

PATIENCE = 5.0
"""How many times as long as `static` has spread the cells it may look for their places, which on a
device that is nearly full has no end. What it finds places for takes it a tenth of that."""

PATIENCE_AT_LEAST = 60.0
"""Seconds of that for a small design."""

_STATIC = "Info: Running Static placer"
_STAGES = {
    "Info: Packing": "packs",
    "Info: Creating initial analytic placement": "places",
    _STATIC: "places",
    "Info: Routing..": "routes",
}

_STEP = re.compile(r"Info: iter=(\d+) steplen=")
_LEGALIZES = "Info: Strict legalising"
_LEGALIZED = "Info: HPWL after legalise"


def follow(command: list[str], folder: Path, announce: Announce | None, start: float) -> int | None:
    """Run nextpnr, and say which stage it has come to.

    Args:
        command: the program and its options.
        folder: where it runs.
        announce: told of each stage, and the minutes until then.
        start: since when, by `time.monotonic()`.

    Returns:
        Its exit code, or None if its placer was given up.
    """
    stages = dict(_STAGES)
    given_up = threading.Event()
    with subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stderr is not None

        def give_up() -> None:
            given_up.set()
            process.kill()

        spread = time.monotonic()
        search = threading.Timer(0, give_up)
        try:
            for line in process.stderr:
                if line.startswith(_STATIC):
                    spread = time.monotonic()
                elif (step := _STEP.match(line)) and int(step[1]) > STATIC_STEPS:
                    give_up()
                elif line.startswith(_LEGALIZES):
                    patience = max(PATIENCE_AT_LEAST, PATIENCE * (time.monotonic() - spread))
                    search = threading.Timer(patience, give_up)
                    search.start()
                elif line.startswith(_LEGALIZED):
                    search.cancel()
                stage = next((text for text in stages if line.startswith(text)), None)
                if stage and announce:
                    minutes = (time.monotonic() - start) / 60
                    announce(f"nextpnr {stages.pop(stage)}, after {minutes:.1f} minutes")
        except BaseException:
            process.kill()
            raise
        finally:
            search.cancel()
    return None if given_up.is_set() else process.returncode

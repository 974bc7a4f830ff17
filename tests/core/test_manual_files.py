"""The generated pages in docs/ are the ones that the tables give today."""

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "manual.py"


def test_generated_pages_are_up_to_date() -> None:
    pages = runpy.run_path(str(SCRIPT))["pages"]()
    assert len(pages) == 5
    for path, text in pages.items():
        assert path.read_text("utf-8").rstrip("\n") == text.rstrip("\n"), (
            f"docs/{path.name} is out of date: run python scripts/manual.py"
        )

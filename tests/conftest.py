"""What all tests share: reproducible randomness, and no silent skips where none is allowed."""

import os
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

# The same examples in every run: a failure on one machine is a failure on all.
settings.register_profile("reproducible", derandomize=True, print_blob=True, deadline=None)
settings.load_profile("reproducible")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, Any]:
    """In continuous integration, a skipped test is a failed one: everything can be had there."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and CI allows no skip: {report.longrepr}"
    return report

"""What pytest shows of ``cnnext.testing.parametrize_with_layer_checks``: a report card for each layer at the end.

pytest loads this module in every session of an environment that has cnnext. It imports nothing of the engine; only where a
layer was checked, and the engine is there anyway, does it ask ``cnnext.testing`` for the cards.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MARK = "layer_check"


def pytest_addoption(parser: Any) -> None:
    """Declare ``--layer-report``."""
    parser.getgroup("cnnext").addoption("--layer-report", metavar="FILE",
                                        help="write the report cards of the layers that were checked as JSON")


def pytest_configure(config: Any) -> None:
    """Declare the mark, which ``--strict-markers`` asks for."""
    config.addinivalue_line("markers", f"{MARK}(check): set by cnnext.testing.parametrize_with_layer_checks")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Iterator[None]:
    """Put the result of a check into the test's report, which also travels from the workers of pytest-xdist."""
    outcome: Any = yield
    mark = item.get_closest_marker(MARK)
    if mark is not None and call.when == "call" and mark.args[0].result is not None:
        entry = {"test": item.nodeid.partition("[")[0], **mark.args[0].record()}
        outcome.get_result().user_properties.append((MARK, entry))


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    """Print the report cards, whole where something is wrong or with ``-v``; write them where ``--layer-report`` says."""
    records = [value for reports in terminalreporter.stats.values() for report in reports
               for name, value in getattr(report, "user_properties", ()) if name == MARK]
    cards: list[Any] = []
    if records:
        from cnnext.testing import report_cards

        cards = report_cards(records)
        terminalreporter.section("layer contract")
        for card in cards:
            terminalreporter.write_line(str(card) if config.get_verbosity() > 0 or not card.ok else card.summary())
    target = config.getoption("--layer-report")
    if target:
        Path(target).write_text(f"[{','.join(card.to_json() for card in cards)}]\n", encoding="utf-8")

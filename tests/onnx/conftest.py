"""Counts the tests of ONNX's conformance suite and prints the table."""

from __future__ import annotations

from tests.onnx.conformance import TALLY, category


def pytest_runtest_logreport(report):
    """Count a test once: when it is called, or when it is skipped before."""
    kind = category(report.nodeid)
    if kind is None or report.when == "teardown" or report.when == "setup" and not report.skipped:
        return
    from tests.onnx.test_conformance import groups_of

    name = report.nodeid.rpartition("::")[2].removesuffix("_cpu")
    TALLY.count(groups_of(kind, name), name, report.outcome == "passed" and not hasattr(report, "wasxfail"))


def pytest_terminal_summary(terminalreporter):
    """Print the table."""
    if TALLY.total:
        terminalreporter.section("ONNX conformance")
        terminalreporter.line(TALLY.table())

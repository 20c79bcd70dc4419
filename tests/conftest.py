"""Settings of all tests: ``make test`` runs the same cases every time, ``make test-all`` (profile "explore") new ones.

The hooks count the tests of ONNX's conformance suite and print its table. They stand here because the process that
collects the reports of several workers sees no other ``conftest.py``.
"""

import os

from hypothesis import settings

from tests.onnx.conformance import TALLY, category

settings.register_profile("default", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("CNNEXT_TEST_PROFILE", "default"))


def pytest_runtest_logreport(report):
    """Count a test of the suite once: when it is called, or when it is skipped before."""
    kind = category(report.nodeid)
    if kind is None or report.when == "teardown" or report.when == "setup" and not report.skipped:
        return
    from tests.onnx.test_conformance import groups_of

    name = report.nodeid.rpartition("::")[2].removesuffix("_cpu")
    TALLY.count(groups_of(kind, name), name, report.outcome == "passed" and not hasattr(report, "wasxfail"))


def pytest_terminal_summary(terminalreporter):
    """Print the suite's table."""
    if TALLY.total and not hasattr(terminalreporter.config, "workerinput"):
        terminalreporter.section("ONNX conformance")
        terminalreporter.line(TALLY.table())

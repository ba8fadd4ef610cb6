"""Prints the kill rates of the mutation campaigns after the run."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "mutants" and getattr(report, "when", "") == "call"
    ]
    if lines:
        terminalreporter.section("mutants of call-frame information")
        for line in lines:
            terminalreporter.line(line)

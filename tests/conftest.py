"""What all tests share."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Take interrupts even where the tests were started in the background of a script.

    Shells have such commands ignore SIGINT, and so would everything that the tests start.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

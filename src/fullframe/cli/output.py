"""Printing data on stdout, one way for every command."""

from __future__ import annotations

import json


def print_json(value: object) -> None:
    """Print one JSON object, readable and with its keys in the order they were given.

    Args:
        value: of JSON's own types.
    """
    print(json.dumps(value, indent=2))

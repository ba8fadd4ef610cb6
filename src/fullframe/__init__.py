"""fullframe: register frames and call frames of low-level x86 code.

The package answers one question of machine code: where is each of the caller's
register values now? See ``docs/architecture.md`` for the rooms and their jobs.
"""

__version__ = "0.1.0"

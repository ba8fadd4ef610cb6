"""Argument parsing and rendering: one file per command group, no logic."""

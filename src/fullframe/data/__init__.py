"""Packaged data: system-call tables, contracts, templates."""

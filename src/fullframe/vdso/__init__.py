"""The vDSO: dump, build, and step through it."""

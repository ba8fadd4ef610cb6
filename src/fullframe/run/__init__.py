"""Running code: the emulator harness for system-call entry code."""

"""System-call tables: read, write, lint, and what each call needs of the register frame."""

"""ELF images: sections, segments, symbols, relocations, line tables."""

"""The machine: registers, their DWARF numbers, pt_regs slots, decoding, ways into the kernel."""

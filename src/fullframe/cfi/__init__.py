"""Call-frame information: CIE, FDE, rows, expressions, and the checker of their claims."""

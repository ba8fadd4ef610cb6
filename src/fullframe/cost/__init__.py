"""What code costs: instruction counts, cycle bounds with their sources, and live measurement."""

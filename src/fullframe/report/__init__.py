"""Text tables, JSON, SARIF and HTML, made from result objects and from nothing else."""

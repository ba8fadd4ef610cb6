"""Benchmarks: each module's ``main()`` prints its figures beside those of its peers."""

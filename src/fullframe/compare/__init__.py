"""The main job: one table, every strategy: generate, assemble, run, cost."""

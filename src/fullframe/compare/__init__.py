"""The main job: one table, every strategy: generate, build, run, cost, and set side by side."""

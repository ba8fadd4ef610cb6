"""Entry code: strategies, generation, building, verification.

Start at :func:`fullframe.entry.verify.verify` (build and run every strategy for one table), or
at its parts: :func:`fullframe.entry.generate.generate` (text), :func:`fullframe.entry.build.build`
(linked image), :func:`fullframe.entry.identity.compare_paths_of` (byte for byte).
"""

"""System-call entry code: the frame's layout, the strategies, and the generation of their code."""

"""Stepping through a vDSO, and asking unwinders for the caller's registers at every instruction.

:func:`~fullframe.vdso.step.stepping.step_image` is the way in.
"""

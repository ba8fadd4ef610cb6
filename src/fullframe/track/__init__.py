"""The tracker: where is each of the caller's register values at every instruction?"""

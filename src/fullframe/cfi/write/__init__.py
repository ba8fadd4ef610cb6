"""Writing call-frame information: from what the code does, to directives, to data and back."""

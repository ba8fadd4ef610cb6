"""The prover: what the register frame holds at every C call, and what the user gets back."""

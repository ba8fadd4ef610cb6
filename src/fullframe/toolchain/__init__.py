"""Other people's tools: find them, probe them, and run every one through one wrapper."""

"""Breaking things on purpose, and the oracle that says what became of each lead."""

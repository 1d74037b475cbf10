"""Commands of the sales desk, and of leads that did not reach it by themselves."""

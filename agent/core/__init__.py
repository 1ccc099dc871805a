"""Pure rules of the agent: what it holds and owes, and how far an attempt has come."""

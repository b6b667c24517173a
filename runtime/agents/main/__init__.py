"""The main agent: plans, writes Python, and gives the final result."""

"""Killing and stopping the work at seeded random moments, and comparing with work that was left alone."""

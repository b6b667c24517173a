"""Configuration: settings with their defaults, the layers that override them, and a run's identity."""

"""The sandbox's own processes: zygote, supervisor and runner.

These modules run under `python -I`, perhaps in another interpreter than the daemon's, so they import the standard
library and each other only, and keep to Python 3.9.
"""

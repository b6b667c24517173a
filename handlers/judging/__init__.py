"""Judges: whether an answer is right, by rule (`exact`) or by a model's verdict (`model`)."""

from __future__ import annotations

from handlers.judging.exact import exact_match
from handlers.judging.model import judge_messages, parse_verdict

__all__ = ["exact_match", "judge_messages", "parse_verdict"]

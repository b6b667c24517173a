"""What handlers are given to work with."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.agents.base import Agent
from runtime.config.settings import Settings
from runtime.executor import Executor
from runtime.models.journal import Models
from store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of a daemon that a stage of the method may use."""

    settings: Settings
    database: Database
    models: Models
    agent: Agent
    executor: Executor

"""Agents: the verbs that every agent has, and the agents that come with the runtime."""

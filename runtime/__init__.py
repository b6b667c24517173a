"""What runs: bus, daemon, configuration, models, agents, sandbox, workspaces, command line, simulated world."""

"""The protocols that model endpoints speak, one module each; see `runtime.models.transport` for what they share."""

"""The daemon's HTTP API: JSON under /v1, for `cso` itself and for programs."""

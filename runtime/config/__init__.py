"""Configuration: settings with their defaults, the layers that override them, and a run's identity."""

from runtime.config.identity import digest as digest
from runtime.config.identity import identity as identity
from runtime.config.layers import Origin as Origin
from runtime.config.loading import Loaded as Loaded
from runtime.config.loading import load_settings as load_settings
from runtime.config.rendering import render_default_config as render_default_config
from runtime.config.settings import Settings as Settings
from runtime.config.values import flatten as flatten

"""Tests of the providers' protocols, over real HTTP through their real SDKs."""

"""Spaces known by name: `ahmf study search NAME`."""

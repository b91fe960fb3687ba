"""The version of the library: what pyproject.toml says, as it was installed."""

from __future__ import annotations

import importlib.metadata

try:
    __version__ = importlib.metadata.version("dng-jax")
except importlib.metadata.PackageNotFoundError:  # a checkout that is on the path, not installed
    __version__ = "0+unknown"

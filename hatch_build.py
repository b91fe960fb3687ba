"""What a wheel holds besides its packages; an editable one finds it in the checkout."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Jobs(BuildHookInterface):
    """Adds the folders that pyproject.toml names for this hook to a standard wheel.

    force-include itself would copy them beside an editable install too, where they grow stale.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before each build."""
        if version == "standard":
            build_data["force_include"] |= self.config["force-include"]

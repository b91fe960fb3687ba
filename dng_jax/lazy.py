"""Names of a package that are imported when they are asked for (PEP 562).

Importing jax takes seconds; a job that is asked for its --help, or whose options are wrong, should
answer before that. So a package's __init__ imports what it exports for type checkers alone, and
says the same to `exporter` for everybody else:

    if TYPE_CHECKING:
        from dng_jax import steps
        from dng_jax.sampling import sample
    else:
        __getattr__, __dir__ = exporter(__name__, __all__, {"sampling": ("sample",)})

Not for a package that exports a function under the name of its module (posterior.classes): what an
import puts there first would stay.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any


def exporter(
    package: str, exported: Collection[str], homes: Mapping[str, Collection[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The __getattr__ and __dir__ of a package that exports these names.

    homes: module of the package -> names that it defines; other exported names are modules.
    """
    found_in = {name: home for home, names in homes.items() for name in names}

    def getattribute(name: str) -> Any:
        if name not in exported and not _is_module(package, name):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if name in found_in:
            value = getattr(importlib.import_module(f"{package}.{found_in[name]}"), name)
        else:
            value = importlib.import_module(f"{package}.{name}")
        setattr(sys.modules[package], name, value)
        return value

    def directory() -> list[str]:
        return sorted({*vars(sys.modules[package]), *exported})

    return getattribute, directory


def _is_module(package: str, name: str) -> bool:
    # Modules that are not exported are found as they are where everything is imported at once.
    return not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}") is not None

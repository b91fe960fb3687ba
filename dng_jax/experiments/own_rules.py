"""A rule of the user's own, by name: MODULE:FACTORY=SCALE.

    factory(scale)                          or, where it has a parameter of that name,
    factory(scale, negatives=roles)         roles ("negative:0", ...) of the forbidden classes

The module is imported with the current directory on the path. What the factory returns is a
`dng_jax.rules.Rule` that is a pytree (decorate its class with `dng_jax.pytree`).
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dng_jax.errors import InputError, choose
from dng_jax.rules import Rule


def make(name: str, scale: float, negatives: tuple[str, ...]) -> Any:
    """The rule; InputError for a module or factory that is not there, fails, or makes no rule."""
    factory = find(name)
    try:
        takes = "negatives" in inspect.signature(factory).parameters
    except (TypeError, ValueError):  # written in C
        takes = False
    wanted = {"negatives": negatives} if takes else {}
    called = f"{name} called as ({scale:g}{', negatives=...' if wanted else ''})"
    try:
        rule = factory(scale, **wanted)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{called} failed: {_words(error)}") from error
    if not isinstance(rule, Rule):
        raise InputError(
            f"{called} returned {type(rule).__name__}, which is no rule: it needs roles,"
            " init_state, apply and update"
        )
    if any(leaf is rule for leaf in jax.tree.leaves(rule)):
        raise InputError(
            f"{called} returned {type(rule).__name__}, which is no pytree: decorate the class with"
            " dng_jax.rules.pytree"
        )
    for leaf in jax.tree.leaves(rule):
        if not isinstance(leaf, int | float | complex | np.ndarray | np.generic | jax.Array):
            raise InputError(
                f"{called} returned {type(rule).__name__} with {leaf!r} among its numbers: mark"
                " such a field with dng_jax.static()"
            )
    return rule


def find(name: str) -> Callable[..., Any]:
    """The factory MODULE:FACTORY."""
    path, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:  # as python -m has it; a console command has not
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise InputError(f"{path} cannot be imported: {_words(error)}") from error
        raise InputError(
            f"'{name}' is no rule, and there is no module {path} in this folder or installed"
        ) from error
    except Exception as error:
        raise InputError(f"{path} cannot be imported: {_words(error)}") from error
    callables = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
    if not hasattr(module, attribute):
        choose(attribute, callables, f"rule of {path}")
    factory = getattr(module, attribute)
    if not callable(factory):
        raise InputError(f"{name} is {type(factory).__name__}, not a factory of a rule")
    return factory


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"

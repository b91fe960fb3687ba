"""Double precision, where a test asks for it."""

from __future__ import annotations

import jax
import pytest


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield

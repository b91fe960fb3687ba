"""A hundred or so mutated files and command lines; thousands: python -m tests.jobs.fuzz."""

from __future__ import annotations

import pytest

from tests.jobs import fuzz


def test_mutated_files_and_command_lines_end_in_a_sentence_or_the_right_result():
    counts, faults = fuzz.run(files=110, commands=20, seed=7)
    assert not faults, "\n".join(faults)
    assert sum(found.total() for found in counts.values()) == 130
    assert sum(found["refused"] for found in counts.values()) > 60
    assert sum(found["right"] for found in counts.values()) > 8


@pytest.mark.slow
def test_many_of_them():
    _, faults = fuzz.run(files=7000, commands=3000, seed=11)
    assert not faults, "\n".join(faults)

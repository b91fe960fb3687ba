"""Spaces and goals in words, fronts, halving: what needs neither a device nor Optuna."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dng_jax.errors import InputError
from dng_jax.experiments import rule_specs
from dng_jax.tuning import engines, fronts, goals, halving, memory, spaces, ways

PAIR = "dng:pair scale=0.1..10:log tau=0.2..2 drift=0..0.8:3 steps=25,50"


# --------------------------------------------------------------------------- spaces


@pytest.mark.parametrize(
    "text",
    [PAIR, "np scale=0.1,0.2 lo=0..1 hi=2..20:log:4", "dng:classes,drift=0.5 sampler=ddpm,ddim"],
)
def test_a_space_is_read_back_as_the_same(text):
    space = spaces.parse([text])
    assert str(space.families[0]) == text
    assert spaces.parse([str(space.families[0])]) == space


def test_a_setting_is_a_rule_that_jobs_read():
    space = spaces.parse([PAIR, "np scale=.1..1 lo=.5 hi=2..20"], sampler="ddim", steps=10)
    pair, np_ = space.families
    values = {"scale": 1.23456789, "tau": 0.5, "drift": 0.25, "steps": 25.0}
    found = space.setting(space.point(pair, values))
    assert (str(found.spec), found.sampler, found.steps) == (
        "dng:pair=1.235,tau=0.5,drift=0.25", "ddim", 25,
    )  # fmt: skip
    assert rule_specs.parse(str(found.spec)) == found.spec
    limited = space.setting(space.point(np_, {"scale": 0.5, "lo": 0.5, "hi": 4.0}))
    assert str(limited.spec) == "interval(0.5,4,np=0.5)"
    assert limited.steps == 10
    assert found.program != limited.program
    # Another number is the same program, another number of steps is not.
    same = space.setting(space.point(pair, values | {"scale": 3.0, "tau": 1.0}))
    other = space.setting(space.point(pair, values | {"steps": 50.0}))
    assert found.program == same.program != other.program


def test_a_grid_is_every_combination_once_and_program_by_program():
    space = spaces.parse([PAIR, "np scale=0.1,0.3"])
    points = list(space.grid(2))
    assert len(points) == 2 * 2 * 3 * 2 + 2
    assert len({tuple(sorted(p.items(), key=str)) for p in points}) == len(points)
    programs = [space.setting(p).program for p in points]
    assert len(list(itertools.groupby(programs))) == len(set(programs)) == len(space.programs())
    (leaf,) = spaces.parse(["np scale=0.1..10:log"]).families[0].leaves
    assert leaf.grid(3) == (0.1, 1.0, 10.0)


@given(share=st.floats(0, 1, exclude_max=True), low=st.floats(1e-3, 1), factor=st.floats(1.1, 1e3))
@settings(max_examples=50, deadline=None)
def test_what_is_drawn_lies_in_the_range(share, low, factor):
    for log in (False, True):
        leaf = spaces.Leaf("scale", low, low * factor, log)
        value = leaf.rounded(leaf.at(share))
        assert leaf.low <= value <= leaf.high
        grid = leaf.grid(4)
        assert (grid[0], grid[-1]) == pytest.approx((leaf.low, leaf.high), rel=1e-3)
        assert all(leaf.low <= v <= leaf.high for v in grid)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dng:pair scael=.1..1", "unknown leaf of dng:pair 'scael': did you mean 'scale'"),
        (
            "dng:pair radius=1..2",
            "choose from scale, tau, delta, drift, prior, skip, every, lo, hi, steps",
        ),
        ("dng:classes prior=.1..2", "unknown leaf of dng:classes 'prior'"),
        ("dng:pair scale=2..1", "from 2 down to 1: swap the ends"),
        ("dng:pair scale=2..2", "holds one number: write scale=2"),
        ("dng:pair scale=0..1:log", "lower end above 0, got 0"),
        ("dng:pair delta=-1..1:log", "lower end above 0, got -1"),
        ("dng:pair drift=0..2", "drift must be between 0 and 1, got 2"),
        ("dng:pair steps=20..50", "list those to try, as in steps=25,50,100"),
        ("dng:pair steps=0,50", "steps must be a whole number between 1 and 1000, got 0"),
        ("dng:pair scale=1,1", "names a value twice"),
        ("dng:pair scale=x..1", "'x' of scale is not a number"),
        ("dng:pair scale=.1..1:lin", "after scale=.1..1 comes :log"),
        ("dng:pair scale=.1..1 scale=2", "scale is given twice"),
        ("dng:pair=2 scale=.1..1", "scale is given twice"),
        ("dng:pair,tau=.5 tau=.1..1", "tau is given twice"),
        ("dng:pair scale", "scale needs values"),
        ("np lo=1..3 hi=2..4", "all of lo must lie below all of hi"),
        ("interval(0,2,np) lo=1..3", "all of lo must lie below all of hi"),
        ("np hi=0..5", "hi must be a finite number > 0, got 0"),
        ("np hi=0,5", "hi must be a finite number > 0, got 0"),
        ("interval(.5,5,np) lo=.1..1", "lo is given twice, by the interval and as a leaf: write 0"),
        (
            "interval(.5,5,np) hi=1..5",
            "hi is given twice, by the interval and as a leaf: write",
        ),
        ("dng:pair skip=.2 every=1.5..9", "every must be a whole number between 1 and 1000, got"),
        (
            "dng:pair skip=.2 every=2,2.5",
            "every must be a whole number between 1 and 1000, got",
        ),
        ("dng:pair steps=25.5", "steps must be a whole number between 1 and 1000, got 25.5"),
        ("dng:pair", "nothing to search"),
        ("reject:pair scale=1..2", "reject has no numbers that one program could search"),
        ("", "a space is empty"),
        ("dgn scale=1..2", "did you mean 'dng'"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused_in_one_sentence(text, said):
    with pytest.raises(InputError) as found:
        spaces.parse([text])
    assert said in str(found.value)
    assert "\n" not in str(found.value)


def test_a_leaf_keeps_the_other_end_of_its_rule():
    space = spaces.parse(["interval(.5,inf,np) hi=2,4", "interval(0,5,dng:pair) lo=.1..1"])
    first, second = space.families
    found = [space.setting(space.point(first, {"hi": h})).spec.interval for h in (2.0, 4.0)]
    assert found == [(0.5, 2.0), (0.5, 4.0)]
    assert space.setting(space.point(second, {"lo": 0.25})).spec.interval == (0.25, 5.0)


@given(share=st.floats(0, 1, exclude_max=True), log=st.booleans())
@settings(max_examples=50, deadline=None)
def test_a_whole_number_is_searched_among_whole_ones(share, log):
    leaf = spaces.parse([f"dng:pair,skip=.2 every=1..50{':log' * log}"]).families[0].leaves[0]
    value = leaf.at(share)
    assert value == round(value) == leaf.rounded(value)
    assert 1 <= value <= 50
    assert all(v == round(v) for v in leaf.grid(7))


def test_whole_numbers_come_equally_often_and_once_on_a_grid():
    leaf = spaces.parse(["dng:pair,skip=.2 every=1..4"]).families[0].leaves[0]
    drawn = [leaf.at((i + 0.5) / 400) for i in range(400)]
    assert {v: drawn.count(v) for v in set(drawn)} == dict.fromkeys((1.0, 2.0, 3.0, 4.0), 100)
    assert leaf.grid(9) == (1.0, 2.0, 3.0, 4.0)
    assert (leaf.rounded(2.6), leaf.ends) == (3.0, (1.0, 4.0))


def test_one_rule_has_one_space():
    with pytest.raises(InputError, match="given twice: write it once"):
        spaces.parse(["np scale=.1..1", "np scale=2..3"])
    with pytest.raises(InputError, match="needs a space"):
        spaces.parse([])


# --------------------------------------------------------------------------- goals


def test_goals_measure_and_constrain():
    goal = goals.parse(["kl", "calls"], ["leak<=0.5%", "frechet <= 3"])
    assert goal.measures == ("kl", "calls", "leak", "frechet")
    found = {"kl": 0.1, "calls": 50.0, "leak": 0.01, "frechet": 4.5}
    assert goal.values(found) == [0.1, 50.0]
    assert goal.constraints[0].most == 0.005
    assert goal.violation(found) == pytest.approx(1 + 0.5)
    assert goal.violation(found | {"leak": 0.005, "frechet": 3.0}) == 0
    assert str(goal.constraints[0]) == "leak <= 0.5%"


@pytest.mark.parametrize(
    ("objectives", "constraints", "said"),
    [
        (["kk"], [], "unknown objective 'kk': choose from leak, kl"),
        ([], [], "at least one objective"),
        (["kl", "kl"], [], "names one twice"),
        (["kl"], ["leak<0.5"], "is no constraint: write MEASURE<=NUMBER"),
        (["kl"], ["leek<=0.5"], "did you mean 'leak'"),
        (["kl"], ["leak<=2"], "between 0 and 100%"),
        (["kl"], ["kl<=2%"], "only a leak is given in per cent"),
        (["kl"], ["kl<=x"], "'x' is not a number"),
        (["kl"], ["kl<=1", "kl<=2"], "keep the stricter one"),
    ],
)
def test_goals_that_make_no_sense_are_refused(objectives, constraints, said):
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        goals.parse(objectives, constraints)


# --------------------------------------------------------------------------- fronts


def slow_front(values, violation):
    """By the definition, pair by pair."""

    def beats(i, j):
        if violation[i] == violation[j] == 0:
            return all(a <= b for a, b in zip(values[i], values[j], strict=True)) and any(
                a < b for a, b in zip(values[i], values[j], strict=True)
            )
        return violation[i] < violation[j]

    n = range(len(values))
    return {j for j in n if not any(beats(i, j) for i in n)}


@given(
    values=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_the_front_is_what_nothing_dominates(values, data):
    violation = data.draw(
        st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0]), min_size=len(values), max_size=len(values))
    )
    expected = slow_front(values, violation)
    found = fronts.front(values, violation)
    # Of equals one stands for all.
    pair = lambda i: (*values[i], violation[i])  # noqa: E731
    assert {pair(i) for i in found} == {pair(i) for i in expected}
    assert len({pair(i) for i in found}) == len(found)
    rank = fronts.ranks(values, violation)
    assert {i for i in range(len(values)) if rank[i] == 0} == expected
    order = fronts.order(values, violation)
    assert sorted(order) == list(range(len(values)))
    assert (np.diff(rank[order]) >= 0).all()


def test_a_front_is_thinned_where_it_is_crowded():
    values = np.array([[0.0, 1.0], [0.01, 0.98], [0.02, 0.97], [0.5, 0.5], [1.0, 0.0]])
    kept = fronts.spread(values, 3)
    assert {0, 3, 4} == set(kept)
    assert list(fronts.spread(values, 9)) == list(range(5))
    with pytest.raises(InputError, match="some are NaN"):
        fronts.front([[math.nan, 1.0]])


# --------------------------------------------------------------------------- ways


@pytest.mark.parametrize(
    ("way", "trials", "block", "first"),
    [
        ("tpe", 16, 16, 16),
        ("tpe", 10, 4, 10),
        ("nsga2", 1, 1, 2),
        ("tpe", 17, 16, None),
        ("nsga2", 5, 4, None),
        ("random", 1, 16, None),
        ("grid", 1, 16, None),
    ],
)
def test_a_search_that_ends_before_it_learns_is_told(way, trials, block, first):
    said = ways.only_random(way, trials, block, "--members")
    if first is None:
        assert said is None
    else:
        assert f"--search {way} draws the first {first} trials at random" in said
        assert said.endswith("raise --trials, or lower --members")


# --------------------------------------------------------------------------- halving, memory


def test_rungs_rise_to_all_samples_in_whole_batches():
    assert halving.rungs(64, 576, 3, 64) == (64, 192, 576)
    assert halving.rungs(50, 300, 3, 64) == (64, 192, 320)
    assert halving.rungs(512, 512, 3, 64) == (512,)
    # 1 + (192-64)/(3*64) + (576-192)/(9*64) rungs' worth of 64 images
    assert halving.share((64, 192, 576), 3) == pytest.approx((64 + 128 / 3 + 384 / 9) / 576)
    assert [halving.survivors(n, 3) for n in (9, 10, 1)] == [3, 4, 1]
    with pytest.raises(InputError, match="between 1 and all 8 images, got 9"):
        halving.rungs(9, 8, 3)
    with pytest.raises(InputError, match="between 1 and all 8 steps, got 9"):
        halving.rungs(9, 8, 3, unit="steps")
    with pytest.raises(InputError, match="eta must be at least 2"):
        halving.rungs(2, 8, 1)


class Program:
    """A compiled program of so many bytes; none where XLA says nothing."""

    def __init__(self, size):
        self.size = size
        self.argument_size_in_bytes, self.output_size_in_bytes = 10, 5
        self.temp_size_in_bytes, self.alias_size_in_bytes = (size or 0) - 15, 0

    def compile(self):
        return self

    def memory_analysis(self):
        return None if self.size is None else self


def test_as_many_settings_at_once_as_fit():
    def fitting(free, known=True, platform="gpu"):
        asked = []

        def lowered(chunk):
            asked.append(chunk)
            return Program(100 * chunk if known else None)

        return memory.fitting_chunk(16, lowered, platform=platform, free=free), asked

    assert fitting(1600) == (16, [16])
    assert fitting(900) == (8, [16, 8])
    assert fitting(50) == (1, [16, 8, 4, 2])
    assert fitting(50, known=False) == (16, [16])
    assert fitting(50, platform="cpu") == (1, [])


def test_a_device_without_memory_gets_half_as_many_settings():
    import jax

    def run(chunk, fits=2, said="RESOURCE_EXHAUSTED: Out of memory"):
        if chunk > fits:
            raise jax.errors.JaxRuntimeError(said)
        return f"ran {chunk}"

    assert memory.retried(run, 12) == ("ran 2", 2)  # 12, 6, 3, 2
    with pytest.raises(jax.errors.JaxRuntimeError):
        memory.retried(lambda chunk: run(chunk, fits=0), 4)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        memory.retried(lambda chunk: run(chunk, said="INTERNAL"), 4)


def test_an_engine_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"--engine ray needs the extra ray: pip install 'dng-jax"):
        engines.check("ray")
    trace = "Traceback:\n  at 3\ndng_jax.errors.InputError: no such file: check it\n----\nsee x.out"
    assert engines.reason(RuntimeError(trace)) == "no such file: check it"
    assert engines.reason(RuntimeError("Job 3 has not\n produced")) == "Job 3 has not"
    assert engines.parameters(["timeout_min=60", "slurm_partition=gpu"]) == {
        "timeout_min": 60, "slurm_partition": "gpu",
    }  # fmt: skip
    with pytest.raises(InputError, match="KEY=VALUE"):
        engines.parameters(["gpu"])

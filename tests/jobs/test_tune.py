"""eval.tune end to end: programs, resume, workers, the judged front, best.json."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import types

import jax
import numpy as np
import pytest

from dng_jax.errors import InputError
from dng_jax.experiments import blocks, problems, rule_specs, settings
from dng_jax.experiments.blocks import Item, Shape
from dng_jax.experiments.generating import Draw, generate
from dng_jax.experiments.source import Source
from dng_jax.jobs import runs
from dng_jax.tuning import goals, judging, memory, spaces
from dng_jax.tuning.measuring import Measurer, Tally
from dng_jax.tuning.studies import Told
from eval.class_removal import job as class_removal
from eval.tune import job, judgement, tables
from eval.tune.options import Config

pytestmark = pytest.mark.usefixtures("quick_compilation")
EXACT = Source(denoiser="exact", patterns=300)
STEPS = 4


@pytest.fixture(scope="module")
def problem():
    return problems.make("digits", ("0",), EXACT)


@pytest.fixture(scope="module")
def measurer(problem):
    goal = goals.parse(["leak", "kl"], [])
    return Measurer(
        problem, rule_specs.TrackerOptions(), goal, 3, (8, 24), width=4, batch=8, chunk=1
    )


def pairs(*scales):
    space = spaces.parse(["dng:pair scale=0..100 tau=.5..2"], steps=STEPS)
    return [space.setting(space.point(space.families[0], {"scale": s, "tau": 1.0})) for s in scales]


def compiled(run):
    """What run() returns, and how many programs were compiled for it."""
    count = [0]

    def listen(event, seconds, **_):
        count[0] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        return run(), count[0]
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.slow
def test_the_samples_of_a_block_are_those_of_jobs(problem, measurer):
    first = dataclasses.replace(measurer, rungs=(24,)).tallies(pairs(0.0, 1.0, 5.0))
    rules = [measurer.rule(s) for s in pairs(0.0, 1.0, 5.0)]
    known = generate(problem, problem.table("ddpm", STEPS), rules, Draw(24, 3))
    for i, tally in enumerate(first):
        np.testing.assert_array_equal(tally.labels, known.labels[i])
        moments = known.moments(i)
        np.testing.assert_allclose(tally.moments.mean, moments.mean, atol=1e-5)
        np.testing.assert_allclose(tally.moments.scatter, moments.scatter, atol=1e-3)
    assert len({tuple(t.labels) for t in first}) > 1


@pytest.mark.slow
def test_calls_of_a_rule_that_skips_are_those_that_ran(measurer):
    one_each = problems.make("digits", ("0",), Source(network="label"))
    calling = dataclasses.replace(measurer, problem=one_each, rungs=(16,), batch=16)
    space = spaces.parse(["dng:pair scale=0..100 skip=.01..0.9 every=1,50"], steps=STEPS)
    (family,) = space.families

    def calls(skip, every):
        at = {"scale": 1.0, "skip": skip, "every": every}
        return calling([space.setting(space.point(family, at))])[0]["calls"]

    assert calls(0.9, 1.0) == 2 * STEPS  # asks at every step
    rarely, often = calls(0.9, 50.0), calls(0.05, 50.0)
    assert STEPS + 1 <= rarely < often <= 2 * STEPS


def test_a_block_is_one_program(measurer):
    full = dataclasses.replace(measurer, rungs=(24,))
    first = full.tallies(pairs(0.0, 50.0))
    assert [t.samples for t in first] == [24, 24]
    assert tuple(first[0].labels) != tuple(first[1].labels)
    # Other numbers, another table of as many steps, more settings than a call holds: no program.
    again = pairs(0.5, 2.0, 3.0, 4.0, 7.0)
    other = [dataclasses.replace(s, sampler="ddpm-paper") for s in again]
    _, programs = compiled(lambda: full.tallies([*again, *other]))
    assert programs == 0


@pytest.mark.parametrize("fits", [1, 2])
def test_a_device_that_runs_out_of_memory_gets_smaller_chunks(fits, measurer, monkeypatch):
    asked = []

    def labelled(problem, table, items, seed, shape):
        asked.append(shape.chunk)
        if shape.chunk > fits:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
        ones = np.ones(shape.batch, np.int32), np.ones((shape.batch, 64))
        return iter([blocks.Labelled(*ones, None) for _ in items])

    monkeypatch.setattr(blocks, "labelled", labelled)
    tight = dataclasses.replace(measurer, rungs=(8, 16), eta=2, chunk=4, _shapes={}, _calls={})
    found = tight(pairs(1.0, 2.0, 3.0, 4.0))
    assert sorted(m["samples"] for m in found) == [8, 8, 16, 16]
    # What served is what the next rung, and the next block, begin with.
    assert asked == {1: [4, 2, 1, 1], 2: [4, 2, 2]}[fits]
    assert tight.shape(pairs(9.0)[0]).chunk == fits


@pytest.mark.slow
def test_on_a_cpu_one_setting_at_a_time_and_a_known_size_chooses_chunks(measurer, monkeypatch):
    (setting,) = pairs(1.0)
    auto = dataclasses.replace(measurer, chunk=None, _shapes={})
    assert auto.shape(setting).chunk == 1
    # The same programs by XLA's own sizes, as an accelerator would have it.
    compiled = functools.cache(lambda chunk: auto.lowered(setting, chunk).compile())
    sizes = {chunk: memory.needed(compiled(chunk)) for chunk in (4, 2)}
    assert sizes[4] > sizes[2] > 0

    def chosen(free):
        monkeypatch.setattr(memory, "device_memory", lambda: free)
        lowered = lambda chunk: types.SimpleNamespace(compile=lambda: compiled(chunk))  # noqa: E731
        return memory.fitting_chunk(4, lowered, platform="gpu")

    assert chosen(sizes[4]) == 4
    assert chosen(sizes[4] - 1) == 2
    assert chosen(sizes[2] - 1) == 1


def test_survivors_of_halving_go_on_from_the_samples_they_have(measurer):
    every = pairs(0.0, 0.1, 1.0, 5.0, 10.0)
    found = measurer.tallies(every)
    samples = [t.samples for t in found]
    assert sorted(samples) == [8, 8, 8, 24, 24]
    whole = dataclasses.replace(measurer, rungs=(24,)).tallies(every)
    for halved, all_of_it in zip(found, whole, strict=True):
        np.testing.assert_array_equal(halved.labels, all_of_it.labels[: halved.samples])


APART = """
import sys, jax, numpy as np
from dng_jax.experiments import blocks, problems, rule_builders, rule_specs
from dng_jax.experiments.source import Source
problem = problems.make("digits", ("0",), Source())
table = problem.table("ddpm", 5)
where = problem, rule_specs.TrackerOptions(), "ddpm", 5
rules = [rule_builders.build(rule_specs.parse(f"dng:pair={s}"), *where) for s in range(1, 12)]
items = [blocks.Item(rule, 8 * i) for i, rule in enumerate(rules)]
out = {}
for name, chunk in (("apart", 1), ("together", 8)):
    shape = blocks.Shape(16, 8, chunk)
    assert blocks._apart(shape) == (chunk == 1)
    found = [*blocks.labelled(problem, table, items, 3, shape)]
    out[name + "_labels"] = [one.labels for one in found]
    out[name + "_features"] = [one.features for one in found]
np.savez(sys.argv[1], **{k: np.asarray(v) for k, v in out.items()})
"""


@pytest.mark.slow
def test_devices_of_a_cpu_run_through_items_of_their_own(eight_devices):
    got = eight_devices(APART)
    assert got["apart_labels"].shape == (11, 8)
    np.testing.assert_array_equal(got["apart_labels"], got["together_labels"])
    np.testing.assert_allclose(got["apart_features"], got["together_features"], atol=1e-3)


def test_an_item_that_is_not_finite_says_at_which_step(problem, measurer):
    table = problem.table("ddpm", STEPS)
    rules = [measurer.rule(s) for s in pairs(1.0, 2.0)]
    broken = jax.tree.map(lambda leaf: leaf * np.nan, rules[1])
    items = [Item(rules[0], 0), Item(broken, 0)]
    good, bad = blocks.labelled(problem, table, items, 3, Shape(4, 8))
    assert good.bad_step is None
    assert bad.bad_step is not None
    tally = Tally(pairs(2.0)[0])
    tally.add(bad)
    assert measurer.measures(tally) is None


def test_the_front_of_complete_trials_and_the_sentence_where_none_fits():
    goal = goals.parse(["kl"], ["leak<=1%"])
    points = [(0.02, 0.01), (0.01, 0.02), (0.0, 0.05), (0.02, 0.06), (0.0, 0.0)]
    told = [
        Told(i, {}, pairs(i + 1.0)[0], {"leak": leak, "kl": kl, "samples": 8 + 16 * (i < 4)})
        for i, (leak, kl) in enumerate(points)
    ]
    complete = judging.complete(told, 24)
    assert [t.number for t in complete] == [0, 1, 2, 3]
    assert [t.number for t in judging.candidates(complete, goal, 3)] == [0, 1, 2]
    # The front, and then what it alone dominates.
    assert [t.number for t in judging.candidates(complete, goal, 9)] == [0, 1, 2, 3]
    assert [t.number for t in judging.candidates(complete, goal, 2)] == [1, 2]
    found = [t.found for t in complete]
    assert judging.chosen(found, goal) == 1
    doubtful = [found[0], found[1] | {"leak_high": 0.03}, None, found[2]]
    assert judging.chosen(doubtful, goal) == 3
    assert judging.chosen(doubtful[:3], goal) == 1
    # A KL has an interval as well.
    limited = goals.parse(["leak"], ["kl<=.03"])
    assert judging.chosen([found[0] | {"kl_high": 0.04}, found[1]], limited) == 1
    strict = goals.parse(["kl"], ["leak<=-0"])
    assert judging.chosen(found[:2], strict) == 1
    with pytest.raises(InputError, match="no setting of the front gave finite predictions"):
        judging.curve(None, {judging.FRONT: []})
    said = judging.unmet(strict, told[1].setting, found[1])
    assert said.startswith("no setting keeps leak <= 0%: the nearest, dng:pair=2,tau=1 in 4 steps")
    assert "has leak 1%" in said


def test_a_verdict_says_how_it_is_known():
    goal = goals.parse(["kl"], ["leak<=1%", "kl<=.1", "calls<=50", "frechet<=3"])
    sure = {"leak": 0.0, "leak_low": 0.0, "leak_high": 0.004, "frechet": 2.0}
    sure |= {"kl": 0.02, "kl_low": 0.01, "kl_high": 0.03, "calls": 50.0}
    sure |= {"calls_low": 50.0, "calls_high": 50.0}
    found = judging.verdicts(goal, sure)
    assert {name: (v.kept, v.how) for name, v in found.items()} == {
        "leak": (True, judging.BY_INTERVAL),
        "kl": (True, judging.BY_INTERVAL),
        "calls": (True, judging.EXACTLY),
        "frechet": (True, judging.NO_INTERVAL),
    }
    doubtful = sure | {"leak_high": 0.02, "kl": 0.2, "kl_high": np.inf, "frechet": 4.0}
    worse = judging.verdicts(goal, doubtful)
    assert (worse["leak"].kept, worse["leak"].how) == (True, judging.BY_ESTIMATE)
    assert (worse["kl"].kept, worse["kl"].how) == (False, judging.BY_ESTIMATE)
    assert not worse["frechet"].kept
    surely_not = judging.verdicts(goal, doubtful | {"kl_low": 0.15})["kl"]
    assert (surely_not.kept, surely_not.how) == (False, judging.BY_INTERVAL)

    def said(first, last):
        return judgement.doubts(runs.to_json({"fresh": first, "third": last}))

    (only,) = said(found, found)
    assert "keeps frechet <= 3 by the estimate, of which there is no interval" in only
    leak, kl, frechet = said(found, worse)
    assert "keeps leak <= 1% by the estimate, and its 95% interval reaches beyond" in leak
    assert "kept kl <= 0.1 on the seed that it was chosen on, and does not on a third" in kl
    assert "kept frechet <= 3" in frechet
    assert "not finite" in said(found, None)[0]
    assert said({}, {}) == []


def config(folder, **changes):
    usual = Config(
        source=EXACT,
        space=("dng:pair scale=.5..20:log tau=.5..2",),
        search="random",
        trials=12,
        block=6,
        samples=24,
        batch=8,
        first_samples=8,
        judge_samples=64,
        judged=3,
        steps=STEPS,
        constraints=("frechet<=1e6",),
        against=("dng:pair=1", "dng:pair=10"),
        out=str(folder),
    )
    return dataclasses.replace(usual, **changes)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune") / "run"
    return folder, job.main(config(folder))


def cells_of(table):
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_a_search_writes_a_front_judged_on_other_seeds(searched):
    folder, results = searched
    assert {
        "results.json",
        "tables.md",
        "front.png",
        "report.html",
        "best.json",
        "journal.log",
    } <= {path.name for path in folder.iterdir()}
    assert results["trials"]["told"] == 12
    assert results["trials"]["complete"] == 4  # two blocks of 6, of each the best third
    assert results["trials"]["programs"] == 1
    front = results["front"]
    assert 1 <= len(front) <= 3
    assert all(r["search"]["samples"] == 24 and r["fresh"]["samples"] == 64 for r in front)
    (kl,) = (b for b in results["bias"] if b["measure"] == "kl")
    assert kl["flattery"] == pytest.approx(kl["fresh"] - kl["search"])
    assert kl["search"] == pytest.approx(np.mean([r["search"]["kl"] for r in front]))
    assert kl["fresh"] == pytest.approx(np.mean([r["fresh"]["kl"] for r in front]))
    rows = cells_of(tables.against(results))
    assert [row["rule"] for row in rows] == ["dng:pair=1", "dng:pair=10"]
    assert all("[" in row["leak % [95%]"] and row["calls"] == str(STEPS) for row in rows)
    page = (folder / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert results["best"]["rule"] in page
    assert json.loads((folder / "results.json").read_text()) == results


def test_a_rule_made_by_hand_has_its_row_whatever_the_front_reaches(searched):
    _, results = searched
    (one, *_) = results["against"]
    alone = results | {"against": [one, one | {"fresh": None}], "compared": [], "by_hand": {}}
    (table,) = (t for t in tables.every(alone) if t.title.startswith("Rules made by hand"))
    assert [row["leak % [95%]"] == "not finite" for row in cells_of(table)] == [False, True]


def test_a_finished_search_computes_nothing_again(searched, capsys):
    folder, results = searched
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if p.suffix != ".lock"}
    assert job.main(config(folder, resume=True)) == results
    after = {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if p.suffix != ".lock"}
    assert {n for n in before if before[n] != after[n]} <= {"run.json", "workers"}
    said = capsys.readouterr().out
    assert "judged already" in said
    assert "keeps frechet <= 1e+06 by the estimate, of which there is no interval" in said
    with pytest.raises(InputError, match="add --resume"):
        job.main(config(folder))
    with pytest.raises(InputError, match=r"holds another run \(space"):
        job.main(config(folder, resume=True, space=("np scale=.1..1",)))


def test_class_removal_takes_what_was_found(searched, tmp_path):
    folder, results = searched
    best = results["best"]
    options = class_removal.Config(settings=str(folder / "best.json"))
    found = class_removal.with_settings(options)
    assert found.rules == ("unguided", best["rule"])
    assert (found.source, found.steps, found.forbid) == (EXACT, STEPS, ("0",))
    assert found.settings is None
    with pytest.raises(InputError, match=r"found with another --steps \(4\): leave --steps out"):
        class_removal.with_settings(dataclasses.replace(options, steps=10))
    (tmp_path / "x.json").write_text('{"rule": "np=.3"}')
    with pytest.raises(InputError, match=r"holds no settings of a rule \(no dataset\)"):
        settings.read(tmp_path / "x.json")


def test_a_dry_run_counts_programs_and_samples_nothing(tmp_path, capsys):
    asked = config(tmp_path / "none", dry_run=True, space=("np scale=.1..1",))
    facts = job.main(asked)
    assert not (tmp_path / "none").exists()
    assert facts["images"] == round(12 * (8 + 16 / 3))
    # Three settings on a fresh seed, one of them on a third, and two rules made by hand.
    assert facts["judged_images"] == (3 + 1 + 2) * 64
    program, by_hand = facts["programs"]
    assert program["images"] == pytest.approx(12 * (8 + 16 / 3) + 4 * 64)
    assert (by_hand["rule"], by_hand["images"]) == ("dng:pair", 2 * 64)
    assert program["calls_per_image"] == STEPS
    # The distances of a step to all patterns, 2 x 300 x 64 operations, and the means back.
    assert program["operations_per_image"] / STEPS > 2 * 2 * 300 * 64
    # Keys, noise, labels and features of 6 settings x 8 images, at least.
    assert program["bytes"] > 6 * 8 * (64 + 64) * 4
    said = " ".join(capsys.readouterr().out.split())
    assert "160 images to search and 384 to judge" in said
    assert "programs to compile: 2; nothing was sampled" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 2}, "must differ from --seed 2"),
        ({"seed": 3}, "must differ from --seed 3"),
        ({"chunk": "some"}, "--chunk takes a number of at least 1, or auto, got some"),
        ({"search": "bayes"}, "unknown search 'bayes'"),
        ({"engine": "slurm"}, "unknown engine 'slurm'"),
        ({"cluster": "local"}, "--cluster belongs to --engine submitit"),
        ({"first_samples": 32}, "between 1 and all 24 images, got 32"),
        ({"sampler": "ddmp"}, "did you mean 'ddpm'"),
        ({"space": ("dng:exact scale=1..2 tau=1..2",)}, "unknown leaf of dng:exact 'tau'"),
        ({"space": ("np scale=.1..1",), "options": rule_specs.TrackerOptions(tau=2)}, "--tau"),
        ({"steps": 2000}, "--steps must be at most 1000"),
        ({"against": ("reject:pair=1.2",)}, "cannot be judged beside a search"),
        ({"against": ("dng:pair", "dng:pair=1")}, "names a rule twice"),
        ({"space": ("dng:pair skip=.1..0.9 drift=0..0.5",)}, "a drift is given back step by step"),
        ({"space": ("safe scale=.5..2",)}, "images, which this job does not take"),
        ({"against": ("spell=1",)}, "images, which this job does not take"),
        ({"space": ("dng:pair every=1..8",)}, "every belongs to skip"),
        ({"space": ("np hi=0..4",)}, "hi must be a finite number > 0, got 0"),
        ({"samples": 1}, "--samples must be at least 2"),
        ({"constraints": ("leak<=200%",)}, "between 0 and 100%"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_folder(changes, said, tmp_path):
    with pytest.raises(InputError) as found:
        job.main(config(tmp_path / "none", **changes))
    assert said in str(found.value)
    assert not (tmp_path / "none").exists()


def test_a_constraint_that_nothing_keeps_is_said_when_all_is_written(searched, tmp_path):
    refused = config(tmp_path / "run", trials=3, constraints=("kl<=-9",), against=())
    with pytest.raises(
        InputError, match=r"no setting keeps kl <= -9: the nearest, dng:pair=.*has kl"
    ):
        job.main(refused)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "results.json" in names
    assert "best.json" not in names

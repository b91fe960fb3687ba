"""Studies in one folder: asked and told once, by processes that may be killed at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter

import pytest

from dng_jax.errors import InputError
from dng_jax.jobs import locks
from dng_jax.tuning import goals, importance, journals, searching, spaces, studies
from tests.house import ROOT

SPACE = spaces.parse(["dng:pair scale=.1..10:log tau=.2..2 steps=25,50", "np scale=.05,.1,.2,.4"])
GOALS = goals.parse(["kl"], ["leak<=.5%"])


def plan(way="tpe", trials=24, space=SPACE, goal=GOALS, **more):
    return studies.Plan(space, goal, way, trials, seed=3, points=3, **more)


def measured(settings):
    return [
        {"kl": s.spec.scale**0.5, "leak": 0.004 / s.spec.scale, "frechet": 0.0, "calls": s.steps}
        for s in settings
    ]


def finished(folder):
    """Lines of the journal that end a trial, by trial."""
    lines = [json.loads(line) for line in (folder / journals.FILE).read_text().splitlines()]
    return Counter(
        op["trial_id"] for op in lines if op["op_code"] == 6 and op["state"] in (1, 2, 3)
    )


@pytest.mark.parametrize("way", ["grid", "random", "tpe", "nsga2"])
def test_a_study_is_filled_goes_on_and_repeats(way, tmp_path):
    sizes = []

    def evaluate(settings):
        sizes.append(len(settings))
        return measured(settings)

    found = []
    for folder, stops in ((tmp_path / "a", (6, 14)), (tmp_path / "b", (14,))):
        folder.mkdir()
        for trials in stops:
            with studies.open_study(folder, plan(way, trials)) as study:
                searching.search(study, evaluate, 3)
                told = study.told()
                assert len(told) == study.plan.total
                assert study.counts() == (len(told), 0)
        found.append([(t.number, str(t.setting), t.found["kl"]) for t in told])
    assert max(sizes) == 3
    # Stopped between two blocks it goes on as it would have; no setting of a grid comes twice.
    assert found[0] == found[1]
    assert way != "grid" or len({s for _, s, _ in found[0]}) == 3 * 3 * 2 + 4
    assert set(finished(tmp_path / "a").values()) == {1}


@pytest.mark.parametrize("way", ["grid", "random", "tpe"])
def test_whole_numbers_are_whole_in_every_way(way, tmp_path):
    space = spaces.parse(["dng:pair,skip=.2 every=1..30:log scale=1..2"])
    with studies.open_study(tmp_path, plan(way, 14, space=space)) as study:
        searching.search(study, measured, 7)
        drawn = [t.setting.spec.numbers["every"] for t in study.told()]
    assert all(v == int(v) for v in drawn)
    assert len(set(drawn)) >= 3
    loaded = journals.optuna().load_study(storage=journals.storage(tmp_path), study_name="tune")
    held = loaded.trials[0].distributions["dng:pair,skip=.2 every"]
    assert held == journals.optuna().distributions.IntDistribution(1, 30, log=True)


@pytest.mark.parametrize("way", ["grid", "random"])
def test_what_is_planned_is_the_same_where_a_block_was_cut_short(way, tmp_path):
    with studies.open_study(tmp_path, plan(way, 9)) as study:
        asked = study.ask(4)
        for one in asked[:2]:
            study.tell(one, measured([one.setting])[0])
    with studies.open_study(tmp_path, plan(way, 9)) as study:
        searching.search(study, measured, 5)
        point = studies.ways.planned(way, SPACE, 3, 3)
        assert [t.params for t in study.told()] == [point(n) for n in range(study.plan.total)]


def test_constraints_reach_optuna(tmp_path):
    with studies.open_study(tmp_path, plan("random", 8)) as study:
        searching.search(study, measured, 8)
    loaded = journals.optuna().load_study(storage=journals.storage(tmp_path), study_name="tune")
    for trial in loaded.trials:
        setting = SPACE.setting(trial.params)
        assert trial.constraints["leak"] == pytest.approx(0.004 / setting.spec.scale - 0.005)
    assert 0 < sum(t.constraints["leak"] <= 0 for t in loaded.trials) < 8


def test_what_a_process_had_when_it_died_is_taken_over_and_told_once(tmp_path):
    script = f"""
import os, sys
from tests.dng.test_tuning_studies import plan, studies, measured
from pathlib import Path
study = studies.open_study(Path({str(tmp_path)!r}), plan())
asked = study.ask(6)
for one in asked[:2]:
    study.tell(one, measured([one.setting])[0])
print([str(one.setting) for one in asked], flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == -9, done.stderr
    had = eval(done.stdout)
    with studies.open_study(tmp_path, plan()) as study:
        assert study.counts() == (2, 4)
        taken = study.ask(3)
        assert [str(a.setting) for a in taken] == had[2:5]
        with studies.open_study(tmp_path, plan()) as other:  # whose worker lives, keeps its own
            assert [str(a.setting) for a in other.ask(1)] == had[5:6]
            assert other.ask(1)[0].number == 6
        assert study.taken_over() == 4
        for one in taken:
            study.tell(one, measured([one.setting])[0])
        searching.search(study, measured, 5)
        assert study.counts() == (24, 0)
    assert finished(tmp_path) == Counter(dict.fromkeys(range(24), 1))


def test_a_search_keeps_away_from_settings_that_are_not_finite(tmp_path):
    def evaluate(settings):
        found = zip(settings, measured(settings), strict=True)
        return [
            m | {"kl": abs(s.spec.scale - 2), "leak": 0.0} if s.spec.scale < 4 else None
            for s, m in found
        ]

    space = spaces.parse(["np scale=0..10"])
    with studies.open_study(tmp_path, plan("tpe", 40, space=space)) as study:
        searching.search(study, evaluate, 10)
        broken = [t.found is None for t in study.told()]
    assert len(broken) == 40
    # At random 12 of the last 20; of trials told as failed TPE learns nothing: more than that.
    assert sum(broken[20:]) <= 6


def test_what_a_dead_worker_measured_stands_as_a_whole(tmp_path):
    """It died between its constraint and the end of the trial; the next one measures another."""
    with studies.open_study(tmp_path, plan("random", 2)) as study:
        first, second = study.ask(2)
        early = measured([first.setting])[0] | {"leak": 0.004}
        first.trial.set_user_attr(studies.FOUND, early)
        first.trial.set_constraint("leak", 0.004 - 0.005)
        second.trial.set_user_attr(studies.FOUND, None)
    with studies.open_study(tmp_path, plan("random", 2)) as study:
        for one in study.ask(2):
            study.tell(one, early | {"leak": 0.009, "kl": 7.0})
        told = study.told()
    assert told[0].found == early
    assert told[1].found is None
    loaded = journals.optuna().load_study(storage=journals.storage(tmp_path), study_name="tune")
    for trial, held in zip(loaded.trials, told, strict=True):
        if held.found is None:
            assert trial.constraints == {studies.FINITE: studies.WORST}
        else:
            assert trial.values == GOALS.values(held.found)
            assert trial.constraints == {"leak": held.found["leak"] - 0.005}


def halved(settings):
    """As `measured`, of which the first of a block alone takes all 8 images."""
    return [m | {"samples": 2 + 6 * (not i)} for i, m in enumerate(measured(settings))]


WHOLE = ("samples", 8)


def loaded_from(folder):
    return journals.optuna().load_study(storage=journals.storage(folder), study_name=studies.NAME)


def test_what_halving_stops_is_pruned_with_its_value_at_every_rung(tmp_path):
    rungs = {3: [[2, 0.5], [4, 0.25]]}

    def evaluate(settings):
        found = enumerate(halved(settings))
        return [m | ({"rungs": rungs[i]} if i in rungs else {}) for i, m in found]

    one = plan("random", 8, whole=WHOLE, goal=goals.parse(["kl"], []))
    with studies.open_study(tmp_path, one) as study:
        searching.search(study, evaluate, 4)
        told = study.told()
        assert study.counts() == (8, 0)
    found = loaded_from(tmp_path)
    assert [t.state.name for t in found.trials] == ["COMPLETE", *["PRUNED"] * 3] * 2
    for trial, held in zip(found.trials, told, strict=True):
        kl = held.found["kl"]
        expected = {2: 0.5, 4: 0.25} if trial.number % 4 == 3 else {held.found["samples"]: kl}
        assert trial.intermediate_values == expected
    # The best of Optuna is one that ran to its end, whatever few images said of another.
    assert found.best_trial.number in (0, 4)
    assert set(finished(tmp_path).values()) == {1}


@pytest.mark.parametrize(("way", "objectives"), [("nsga2", ["kl"]), ("tpe", ["kl", "calls"])])
def test_where_optuna_has_no_use_of_pruned_trials_all_are_complete(way, objectives, tmp_path):
    one = plan(way, 8, whole=WHOLE, goal=goals.parse(objectives, []))
    with studies.open_study(tmp_path, one) as study:
        searching.search(study, halved, 4)
    assert {t.state.name for t in loaded_from(tmp_path).trials} == {"COMPLETE"}


def test_tpe_takes_no_lucky_value_of_few_images_for_a_good_one(tmp_path):
    """Whole values fall towards 2; of few images 9 looks better than any whole one."""

    def evaluate(settings):
        found = []
        for i, one in enumerate(settings):
            near, lucky = abs(one.spec.scale - 2), abs(one.spec.scale - 9) - 100
            found.append({"kl": lucky if i % 2 else near, "samples": 2 if i % 2 else 8})
        return found

    space, goal = spaces.parse(["np scale=0..10"]), goals.parse(["kl"], [])
    with studies.open_study(tmp_path, plan("tpe", 60, space, goal, whole=WHOLE)) as study:
        searching.search(study, evaluate, 10)
        late = [t.setting.spec.scale for t in study.told()[30:]]
    near = [sum(abs(s - at) < 1.5 for s in late) for at in (2, 9)]
    assert near[0] > 2 * near[1]


def test_a_worker_that_dies_between_two_reports_leaves_the_rest_to_the_next(tmp_path):
    goal, rungs = goals.parse(["kl"], []), [[2, 0.5], [4, 0.25]]
    given = {"kl": 0.25, "samples": 4, "rungs": rungs}
    one = plan("random", 1, whole=WHOLE, goal=goal)
    with studies.open_study(tmp_path, one) as study:
        (asked,) = study.ask(1)
        asked.trial.set_user_attr(studies.FOUND, given)
        asked.trial.report(0.5, 2)
    with studies.open_study(tmp_path, one) as study, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # Optuna's, of what is reported twice
        (asked,) = study.ask(1)
        study.tell(asked, given | {"kl": 7.0, "rungs": [[2, 0.6], [4, 7.0]]})
    (trial,) = loaded_from(tmp_path).trials
    assert (trial.state.name, trial.intermediate_values) == ("PRUNED", {2: 0.5, 4: 0.25})


def test_half_a_line_is_cut_off_and_nothing_before_it_is_lost(tmp_path):
    with studies.open_study(tmp_path, plan("random", 6)) as study:
        searching.search(study, measured, 3)
        before = study.told()
    journal = tmp_path / journals.FILE
    whole = journal.read_bytes()
    last = whole.splitlines()[-1]
    with journal.open("ab") as file:
        file.write(last[: len(last) // 2])  # killed while it wrote
    with studies.open_study(tmp_path, plan("random", 9)) as study:
        assert study.told() == before
        searching.search(study, measured, 3)
        assert study.told()[:6] == before
    journals.check(journal)
    # Cut in the middle of a line: what stands before it is a younger study, which goes on.
    journal.write_bytes(whole[: len(whole) * 2 // 3])
    with studies.open_study(tmp_path, plan("random", 6)) as study:
        searching.search(study, measured, 3)
        assert [str(t.setting) for t in study.told()] == [str(t.setting) for t in before]


def test_a_journal_that_is_none_is_refused_in_one_sentence(tmp_path):
    with studies.open_study(tmp_path, plan("random", 2)) as study:
        searching.search(study, measured, 2)
    journal = tmp_path / journals.FILE
    lines = journal.read_text().splitlines()
    lines[2] = lines[2][:10]
    journal.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"journal\.log, line 3, is no line of a journal"):
        studies.open_study(tmp_path, plan("random", 2))
    assert journal.read_text().splitlines() == lines


def test_another_search_in_the_same_folder_is_refused(tmp_path):
    studies.open_study(tmp_path, plan()).close()
    other = spaces.parse(["np scale=.1..1"])
    for wrong in (plan(space=other), plan("random"), plan(goal=goals.parse(["leak"], []))):
        with pytest.raises(InputError, match="holds a study of another search"):
            studies.open_study(tmp_path, wrong)


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    with studies.open_study(tmp_path, plan("random", 8)) as study:
        asked = study.ask(4)
        study.tell(asked[0], measured([asked[0].setting])[0])
        journal, real = (tmp_path / journals.FILE).read_bytes(), os.fsync

        def full(file):
            os.ftruncate(file, os.fstat(file).st_size - 7)  # as much as there was room for
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            study.tell(asked[1], measured([asked[1].setting])[0])
        monkeypatch.setattr(os, "fsync", real)
    assert (tmp_path / journals.FILE).read_bytes().startswith(journal)
    with studies.open_study(tmp_path, plan("random", 8)) as study:
        searching.search(study, measured, 4)
        assert len(study.told()) == 8
    assert set(finished(tmp_path).values()) == {1}


def test_a_wait_is_said_and_how_to_end_it(tmp_path, monkeypatch):
    with studies.open_study(tmp_path, plan("random", 2)) as dead:
        dead.ask(2)
        with studies.open_study(tmp_path, plan("random", 2)) as study:
            assert study.awaited() == (
                f"waiting for 2 settings that other processes have ({dead.worker}); of one that"
                " ends they are taken over"
            )
            monkeypatch.setattr(searching, "PATIENCE", 0.01)
            monkeypatch.setattr(searching, "SAID_AFTER", 0.02)
            monkeypatch.setattr(locks, "_lock", lambda file, shared=False: False)  # has none
            said, path = [], tmp_path / "workers" / dead.worker

            def obeyed(sentence):
                said.append(sentence)
                path.unlink()

            assert searching.search(study, measured, 4, waiting=obeyed) == 2
            assert len(said) == 1
            assert said[0].endswith(
                f"where none of them runs any more, rm {path} and this one goes on"
            )
            assert "no locks" in said[0]


def test_time_at_work_is_counted_and_not_the_time_between(tmp_path):
    def evaluate(settings):
        time.sleep(0.05)
        return measured(settings)

    for trials in (2, 4):
        with studies.open_study(tmp_path, plan("random", trials)) as study:
            time.sleep(0.3)
            searching.search(study, evaluate, 1, keep=study.keep_session)
            sessions = study.sessions()
    assert [s["trials"] for s in sessions] == [2, 2]
    assert all(0.1 <= s["seconds"] < 0.3 for s in sessions)


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"extra tune: pip install 'dng-jax\[tune\]'"):
        journals.optuna()


def test_a_lease_ends_with_its_process_and_a_lock_is_waited_for(tmp_path):
    path = tmp_path / "lease"
    assert not locks.is_leased(path)
    file = locks.lease(path)
    assert locks.is_leased(path)
    os.close(file)
    assert not locks.is_leased(path)
    began = time.monotonic()
    with locks.waited(tmp_path / "lock"):

        def hold():
            with locks.waited(tmp_path / "lock", lambda: said.append("waits"), after=0.05):
                ended.append(time.monotonic())

        ended: list[float] = []
        said: list[str] = []
        thread = threading.Thread(target=hold)
        thread.start()
        time.sleep(0.2)
        assert not ended
        assert said == ["waits"]
    thread.join()
    assert locks.are_real(tmp_path)
    assert ended[0] - began >= 0.2


@pytest.mark.slow
def test_importance_finds_the_number_that_matters(tmp_path):
    with studies.open_study(tmp_path, plan("random", 60)) as study:
        searching.search(study, measured, 30)
        records = importance.importance(study.told(), SPACE, GOALS, seed=0)
    shares = {r["leaf"]: r["kl"] for r in records if r["rule"] == "dng:pair"}
    assert shares["scale"] > 0.9
    assert sum(shares.values()) == pytest.approx(1)


WORKER = """
import sys, time
from pathlib import Path
from tests.dng.test_tuning_studies import plan, studies, searching, measured
def evaluate(settings):
    time.sleep(.05)
    return measured(settings)
with studies.open_study(Path(sys.argv[1]), plan(sys.argv[2], int(sys.argv[3]))) as study:
    searching.search(study, evaluate, 4)
"""


def worker(folder, way, trials):
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), way, str(trials)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("way", ["random", "tpe"])
def test_fifty_kills_lose_no_setting_and_tell_none_twice(way, tmp_path):
    rng, trials = random.Random(1), 600
    workers = [worker(tmp_path, way, trials) for _ in range(2)]
    for _ in range(50):
        time.sleep(rng.uniform(0.2, 1.5))
        victim = rng.randrange(2)
        if workers[victim].poll() is None:
            workers[victim].send_signal(signal.SIGKILL)
        _, error = workers[victim].communicate()
        assert not error, error
        workers[victim] = worker(tmp_path, way, trials)
    for one in workers:
        assert one.wait(timeout=300) == 0
    with studies.open_study(tmp_path, plan(way, trials)) as study:
        told = study.told()
        assert study.counts() == (trials, 0)
        assert study.taken_over() > 0
    assert [t.number for t in told] == list(range(trials))
    assert set(finished(tmp_path).values()) == {1}
    if way == "random":
        point = studies.ways.planned(way, SPACE, 3, 3)
        assert [t.params for t in told] == [point(n) for n in range(trials)]


@pytest.mark.slow
def test_two_workers_take_half_the_time(tmp_path):
    seconds = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        began = time.monotonic()
        for one in [worker(folder, "random", 400) for _ in range(count)]:
            assert one.wait(timeout=300) == 0
        seconds.append(time.monotonic() - began)
    assert seconds[1] < 0.8 * seconds[0]

"""How train.tune judges its best: fresh seeds, what the interval says, and what is left behind."""

from __future__ import annotations

import dataclasses
import json

import pytest

from dng_jax.tuning import blocks, paired, studies
from tests.jobs.tunes import run
from train.tune import job, judgement
from train.tune.options import parse


def test_the_best_is_judged_against_the_preset_on_fresh_seeds(
    tmp_path, capsys, monkeypatch, quick_compilation
):
    taken, real = [], blocks.Trainings.__call__

    def counting(self, settings):
        taken.append((self.folder.name, len(settings)))
        return real(self, settings)

    monkeypatch.setattr(blocks.Trainings, "__call__", counting)
    folder, words = tmp_path / "run", "--trials 2 --members 2 --engine single"
    found = run(folder, words)["judged"]
    assert taken == [("blocks", 2), *((f"seed-{k}", 2) for k in (2001, 2002, 2003))]
    first, second = found["values"]["best"], found["values"]["preset"]
    assert len(set(first)) == len(set(second)) == 3
    # By hand, with Student's quantile of two degrees of freedom; a fifth is held out.
    each = [a - b for a, b in zip(first, second, strict=True)]
    middle = sum(each) / 3
    trained_on, held_out = found["trained_on"], found["held_out"]
    assert held_out == (trained_on + held_out) // 5
    variance = sum((d - middle) ** 2 for d in each) / 2
    half = 4.302652729911275 * (variance * (1 / 3 + held_out / trained_on)) ** 0.5
    d = found["means"]["difference"]
    assert (d.mean, d.low, d.high) == pytest.approx((middle, middle - half, middle + half))
    said = capsys.readouterr().out
    assert found["sentence"] in said
    assert "on 3 fresh seeds " in found["sentence"]
    held = json.loads((folder / "best.json").read_text())
    assert held["judged"]["means"]["difference"]["mean"] == pytest.approx(middle)
    assert "best less preset" in (folder / "tables.md").read_text()
    assert "of one look at a number of seeds decided on beforehand" in found["sentence"]
    # Again: what is known is not trained; another seed is one more.
    taken.clear()
    assert run(folder, f"{words} --resume")["judged"] == found
    more = run(folder, f"{words} --resume --judge-seeds 4")["judged"]
    assert taken == [("seed-2004", 2)]
    assert more["values"]["best"][:3] == first
    # With another trial both are trained anew, on seeds that no judgement had.
    taken.clear()
    other = run(folder, "--trials 3 --members 2 --engine single --resume --judge-seeds 2")["judged"]
    assert taken == [("blocks", 1), ("seed-3001", 2), ("seed-3002", 2)]
    assert not {*other["values"]["preset"]} & {*more["values"]["preset"]}
    none = run(folder, f"{words} --resume --judge-seeds 0")
    assert none["judged"] is None
    assert "--judge-seeds 3 to compare it" in capsys.readouterr().out


def test_saves_of_a_process_that_joined_while_this_one_judged_stay(
    tmp_path, monkeypatch, quick_compilation
):
    folder, real, joined = tmp_path / "run", judgement.judged, []
    saved = folder / blocks.FOLDER / "other.npz"

    def judged(study, *given):
        if not joined:
            plan = dataclasses.replace(study.plan, trials=3)
            other = studies.open_study(folder, plan)
            joined.append((other, other.ask(1)))
            saved.write_bytes(b"of its member")
        return real(study, *given)

    monkeypatch.setattr(judgement, "judged", judged)
    words = "--trials 2 --members 2 --engine single --judge-seeds 2"
    assert run(folder, words)["judged"] is not None
    assert saved.exists()
    # The last one to be at work removes them.
    (other, (asked,)) = joined[0]
    other.tell(asked, None)
    other.close()
    run(folder, f"{words} --resume")
    assert not saved.parent.exists()


def test_a_preset_that_is_the_best_is_not_judged_against_itself(
    tmp_path, capsys, quick_compilation
):
    words = "--trials 1 --members 1 --engine single"
    found = run(tmp_path / "run", words, space="smoothing=.05 clip=1")
    assert found["judged"] is None
    assert "the best numbers are the preset's own" in capsys.readouterr().out


def test_no_two_judgements_of_a_study_share_a_seed():
    numbers = [k for told in range(1, 6) for k in judgement.seeds(told, 999)]
    assert len(set(numbers)) == len(numbers) == 5 * 999
    assert judgement.seeds(16, 5)[:3] == judgement.seeds(16, 3) == [16001, 16002, 16003]


def test_images_of_a_fresh_seed_were_held_out_of_nothing_before():
    rows, held = job.split(50, parse(["--held-out", "10"]))
    found = [judgement.split_again(rows, held, 1, k) for k in (1, 2)]
    for again, other in found:
        assert len(again) == len(rows)
        assert set(other) <= set(rows)
        assert set(again) == set(range(50)) - set(other)
        assert list(again) == sorted(again)
    assert set(found[0][1]) != set(found[1][1])


@pytest.mark.parametrize(
    ("best", "preset", "verdict"),
    [
        ([1.0, 1.1, 0.9], [2.0, 2.2, 1.9], paired.BETTER),
        ([2.0, 2.2, 1.9], [1.0, 1.1, 0.9], paired.WORSE),
        ([1.0, 1.1, 0.9], [1.1, 1.0, 0.9], paired.UNDECIDED),
        # 12.7 sqrt(1/2 + 1/4) = 11 deviations, where there are two seeds; Student's own are 9.
        ([1.0, 1.1], [1.0 + 0.65, 1.1 + 0.75], paired.UNDECIDED),
        ([1.0, 1.1], [1.0 + 0.66, 1.1 + 0.74], paired.BETTER),
    ],
)
def test_what_beats_what_rests_on_the_interval_of_the_difference(best, preset, verdict):
    found = judgement.summary(best, preset, 0.25)
    assert found["verdict"] == verdict
    assert judgement.SAID[verdict] in judgement.sentence(found, "loss")


def test_an_error_is_judged_no_finer_than_one_held_out_image(
    tmp_path, monkeypatch, quick_compilation
):
    def call(self, settings):
        # Of the best one image less is wrong, whatever the seed.
        errors = [0.1, 0.1 + 1 / len(self.held[0])][: len(settings)]
        rest = {"loss": 1.0, "steps": 8, "rungs": [], "curve": []}
        return [{"error": e, "accuracy": 1 - e, **rest} for e in errors]

    monkeypatch.setattr(blocks.Trainings, "__call__", call)
    words = "--trials 1 --members 1 --objective error"
    found = run(tmp_path / "run", words)["judged"]
    assert found["verdict"] == paired.UNDECIDED
    each = [a - b for a, b in zip(*found["values"].values(), strict=True)]
    assert each == pytest.approx([-1 / found["held_out"]] * 3)


def test_trainings_on_fresh_seeds_that_are_not_finite_are_said():
    found = judgement.summary([None, 1.0, None], [1.0, 1.0, 1.0], 0.25)
    assert found["means"] is None
    said = judgement.sentence(found, "loss")
    assert "trainings of the best were not finite (2 of 3)" in said

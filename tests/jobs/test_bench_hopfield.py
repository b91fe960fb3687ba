"""The hopfield suite of eval.bench at little sizes: what is compared is the same thing."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from dng_jax import InputError
from dng_jax.jobs.options import RunOptions
from eval.bench import hopfield, loops, scaling
from eval.bench import job as bench
from hopfield_jax import find_fixed_points, memory

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.slow
def test_the_suite_writes_every_figure_and_says_where_torch_is_missing(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(hopfield, "OCTAVES", 1)
    config = bench.Config("hopfield", shrink=32, pairs=1, run=RunOptions(str(tmp_path / "b")))
    results = bench.main(config)["results"]
    compared = results["loops"]
    assert len(compared) == 3 * 4
    for name, found in compared.items():
        if not name.endswith("NumPy"):
            assert found == "no torch for this device: pip install torch"
            continue
        assert found["times_faster"].median > 0
        assert found["unconverged_theirs"] == 0
        assert found["apart"] == found["astray_ours"] == found["astray_theirs"] == 0
        assert found["largest_difference"] < hopfield.APART
        assert found["updates_ours"] > 0
    for found in results["share"].values():
        assert 0 < found["share_low"] <= found["share_of_peak"] <= found["share_high"] < 1
    assert set(results["growth"]) == {"patterns", "states", "betas"}
    assert all(len(found["sizes"]) == 2 for found in results["growth"].values())
    many = results["many"]
    assert many["patterns"] == 31250  # more than two blocks
    assert many["converged"] == many["states"] == 64
    assert many["peak_mb"] >= many["peak_mb_before"] > many["patterns_mb"]
    stored = json.loads((tmp_path / "b" / "results.json").read_text())
    assert stored["results"]["loops"].keys() == compared.keys()
    assert "no torch" in capsys.readouterr().out


@pytest.mark.slow
def test_rows_astray_are_counted_for_each_side():
    problem = hopfield.transition(8, 12, betas=6, starts=16, fine=False)
    ends = loops.numpy_loop(problem).states
    wrong = ends.copy()
    wrong[2, 5] += 0.1
    rows = np.array([[2, 5], [3, 1]])
    assert hopfield.astray(problem, rows, ends, wrong) == (0, 1)
    assert hopfield.astray(problem, rows, wrong, ends) == (1, 0)


@pytest.mark.slow
def test_the_numpy_loop_does_what_it_says():
    problem = hopfield.transition(8, 12, betas=6, starts=16, fine=False)
    x, starts, betas = problem
    assert (x.shape, starts.shape, betas.shape) == ((8, 12), (16, 12), (6,))
    assert all(a.dtype == np.float32 for a in problem)
    ends = loops.numpy_loop(problem)
    assert ends.converged.all()
    assert ends.updates % len(starts) == 0
    found = find_fixed_points(memory(x), starts, betas[:, None])
    np.testing.assert_allclose(ends.states.reshape(-1, 12), found.state, atol=2e-5)


def test_the_torch_loop_is_the_numpy_loop():
    pytest.importorskip("torch")
    problem = hopfield.transition(8, 12, betas=6, starts=16, fine=True)
    ours = loops.numpy_loop(problem)
    for follow in (loops.plain, loops.association):
        theirs = loops.torch_loop(follow)(problem)
        np.testing.assert_allclose(ours.states, theirs.states, atol=2e-5)
        assert theirs.converged.all()
        # the association looks at weights, and from its second update on
        slack = 0.05 * ours.updates + 2 * len(problem.betas) * len(problem.starts)
        assert abs(ours.updates - theirs.updates) <= slack


def test_hopfield_layers_own_rule_looks_at_all_weights_together():
    torch = pytest.importorskip("torch")
    problem = hopfield.transition(8, 12, betas=6, starts=16, fine=False)
    x, starts = map(torch.tensor, problem[:2])
    beta = float(problem.betas[-1])
    strict, _, more = loops.association(torch, x, starts, beta, torch.tensor(1e-6))
    ends, rests, fewer = loops.association_own_rule(torch, x, starts, beta, None)
    assert rests.shape == (16,)
    assert rests.all()
    assert fewer < more
    # One update further, the Frobenius norm of all weights is below the threshold.
    states = torch.softmax(beta * ends @ x.T, -1) - torch.softmax(beta * strict @ x.T, -1)
    assert 0 < states.norm() < 2 * loops.OWN_THRESHOLD


def test_exponents():
    sizes = [8, 16, 32, 64]
    found = scaling.exponent(sizes, 3e-3 * np.array(sizes) ** 1.25)
    assert found["exponent"] == pytest.approx(1.25)
    assert found["off"] == pytest.approx(0, abs=1e-9)
    assert scaling.exponent(sizes, np.array([1.0, 2, 4, 16]))["off"] > 0.2


def test_sizes_that_make_no_sense_are_named():
    with pytest.raises(InputError, match="--shrink must be at least 1, got 0"):
        bench.main(bench.Config("hopfield", shrink=0))

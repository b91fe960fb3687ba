"""Every subcommand of eval.hopfield end to end on little data: its results, what it hands to its
figures, and what it says to bad input. Each runs once; several tests look at what it did."""

from __future__ import annotations

import contextlib
import csv
import inspect
import io
import json
import math
import re
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

from dng_jax.errors import InputError
from dng_jax.experiments import problems
from dng_jax.jobs import cli
from dng_jax.metrics import window
from eval.hopfield import __main__ as hopfield
from eval.hopfield import collapse as collapse_job
from eval.hopfield import common, sets
from eval.hopfield import metastable as metastable_job
from hopfield_jax import equidistant, patterns, theory
from hopfield_jax.plots import curves, figures
from tests.hopfield import helpers

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIX = ("--count", "6")
RANDOM = ("--patterns", "random", "--dimension", "6", *SIX)
FIGURES = ((curves, ("panels", "shares")),
           (figures, ("phase_diagram", "landscape", "merge_tree", "window")))  # fmt: skip


class Run(NamedTuple):
    """What a subcommand returned, the columns of its CSV files, what it printed, and the calls of
    each drawing function, arguments by name. The figures are drawn all the same."""

    results: dict[str, Any]
    columns: dict[str, list[str]]
    said: str
    drawn: dict[str, list]

    def column(self, name: str) -> np.ndarray:
        return np.array(list(map(float, self.columns[name])))


def work(folder, *words: str) -> Run:
    """Runs a subcommand, and checks what all of them leave."""
    calls: dict[str, list] = {}

    def spied(name, function):
        def spy(*args, **named):
            given = inspect.signature(function).bind(*args, **named).arguments
            calls.setdefault(name, []).append(given)
            return function(*args, **named)

        return spy

    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        for module, names in FIGURES:
            for name in names:
                patch.setattr(module, name, spied(name, getattr(module, name)))
        results = hopfield.main([*words, "--out", str(folder)])
    stored = json.loads((folder / "results.json").read_text())
    assert stored["provenance"]["packages"]["jax"]
    assert stored["config"]["command"] == words[0]
    assert (folder / "tables.md").read_text().count("|") > 10
    assert all(p.stat().st_size > 5000 for p in folder.glob("*.png"))
    assert any(folder.glob("*.png"))
    columns: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.csv")):
        with path.open() as file:
            rows = list(csv.DictReader(file))
        columns |= {name: [row[name] for row in rows] for name in rows[0]}
    return Run(results, columns, said.getvalue(), calls)


def once(*words: str, module=None, **settings):
    """A fixture that runs a subcommand for all tests of this file, with settings of its module."""

    @pytest.fixture(scope="module")
    def run(tmp_path_factory, quick_compilation):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in settings.items():
                patch.setattr(module, name, value)
            return work(tmp_path_factory.mktemp(words[0]) / "run", *words)

    return run


bifurcation = once("bifurcation", *SIX, "--betas", "6", "--low", "3", "--high", "7")
phase_diagram = once("phase-diagram", "--counts", "4", "6")
collapse = once(
    "collapse", "--counts", "6", "--betas", "6",
    module=collapse_job, SHAPES=((2.0, 60.0, 1), (0.5, None, 1)),
)  # fmt: skip
basins = once("basins", *SIX, "--betas", "4", "--starts", "32", "--low", "3", "--high", "8")
landscape = once("landscape", *SIX, "--resolution", "12", "--at", "3", "5", "8")
retrieval = once("retrieval", *RANDOM, "--noise", "0.3", "--mask", "0.2", "--betas", "3")
spectrum = once("spectrum", *RANDOM)
capacity = once("capacity", "--sizes", "6x6", "--patterns", "none", "--repeats", "2")
metastable = once(
    "metastable", "--patterns", "ultrametric", "--count", "8", "--betas", "8",
    module=metastable_job, WINDOWS=((4, 2, 1.0, 0.8, 0.0),),
)  # fmt: skip
diffusion = once("diffusion", "--samples", "1024", "--steps", "50")


def curves_of(panel, *names: str):
    """(x, y) of all curves of a panel with one of these names, as arrays."""
    found = [
        (np.asarray(c.x, float), np.asarray(c.y, float)) for n, c in panel.curves if n in names
    ]
    assert found, (names, [n for n, _ in panel.curves])
    return found


def on_branch(k, m, n, stable):
    """Points (K, p_1 - p_2) are fixed points of the update, with J's eigenvalues on this side of 1.

    One step from overlap m and the spectrum of J, written out for N equidistant patterns.
    """
    np.testing.assert_allclose(np.expm1(k * m) / (np.exp(k * m) + n - 1), m, atol=1e-6)
    p1, p2 = (1 + (n - 1) * m) / n, (1 - m) / n
    radius = np.maximum(k * p2, k * n * p1 * p2)
    assert (radius <= 1 + 1e-6 if stable else radius >= 1 - 1e-6).all()


def energy_of(k, m, n):
    """Energy less the centroid's, of orthonormal patterns at beta = K."""
    p1, p2 = (1 + (n - 1) * m) / n, (1 - m) / n
    own = -np.log(np.exp(k * p1) + (n - 1) * np.exp(k * p2)) / k + (p1**2 + (n - 1) * p2**2) / 2
    return own - (-np.log(n * np.exp(k / n)) / k + 1 / (2 * n))


def axes_of(x):
    """The plane of three patterns: along the second less the first, and at right angles."""
    first = (x[1] - x[0]) / np.linalg.norm(x[1] - x[0])
    second = x[2] - x[0] - ((x[2] - x[0]) @ first) * first
    return np.stack([first, second / np.linalg.norm(second)])


def spinodal(n):
    return helpers.spinodal(n)[0]


def marked(marks, n):
    exact = theory.characteristic(n)
    assert list(marks) == ["$K_s$", "$K_c$", "$N$"]
    assert list(marks.values()) == pytest.approx(list(exact))


# ---- bifurcation ---------------------------------------------------------------------------------


def test_branches_are_left_where_theory_says(bifurcation):
    at, up, down = (bifurcation.column(k) for k in ("beta_eff", "overlap_up", "overlap_down"))
    k_s, _, k_n = theory.characteristic(6)
    np.testing.assert_allclose(up[at < k_n], 0, atol=1e-4)
    np.testing.assert_allclose(down[at < k_s], 0, atol=1e-4)
    assert (up[at > k_n] > 0.9).all()
    assert (down[at > k_s] > 0.6).all()


def test_minima_are_counted_and_their_energies_cross_at_k_c(bifurcation):
    at, gap = bifurcation.column("beta_eff"), bifurcation.column("energy_gap")
    k_s, k_c, k_n = theory.characteristic(6)
    expected = np.where(at < k_s, 1, np.where(at < k_n, 7, 6))
    np.testing.assert_array_equal(bifurcation.column("minima"), expected)
    both = (at > k_s) & (at < k_n)
    assert np.isnan(gap[~both]).all()
    assert ((gap[both] < 0) == (at[both] > k_c)).all()


def test_protocols_are_measured_and_shown(bifurcation):
    measured, scale = bifurcation.results["measured"], bifurcation.results["scale"]
    assert measured.patterns * scale == pytest.approx(spinodal(6), rel=1e-5)
    assert "started at the centroid (N)" in bifurcation.said


def test_the_bifurcation_diagram_shows_exact_branches_and_what_was_found(bifurcation):
    panels = [panel for call in bifurcation.drawn["panels"] for panel in call["rows"]]
    for panel in panels:
        marked(panel.marks, 6)
    overlaps = panels[0]
    for stable, style in ((True, "exact, stable"), (False, "exact, unstable")):
        for k, m in curves_of(overlaps, style):
            on_branch(k, m, 6, stable)
            assert k.min() >= 3 - 1e-9
            assert k.max() <= 7 + 1e-9
    at = bifurcation.column("beta_eff")
    for name, way in (("up from the centroid", "up"), ("down from the patterns", "down")):
        ((k, m),) = curves_of(overlaps, name)
        np.testing.assert_array_equal([k, m], [at, bifurcation.column(f"overlap_{way}")])
        on_branch(k, m, 6, stable=True)


def test_numbers_and_energies_in_the_diagram_are_exact(bifurcation):
    overlaps, number, gaps = bifurcation.drawn["panels"][0]["rows"]
    k_s, _, k_n = theory.characteristic(6)
    ((k, count),) = curves_of(number, "exact, stable")
    np.testing.assert_array_equal(count, np.where(k < k_s, 1, np.where(k < k_n, 7, 6)))
    ((k, e),) = curves_of(gaps, "exact, stable")
    ((_, m), *_) = curves_of(overlaps, "exact, stable")
    np.testing.assert_allclose(e, energy_of(k, m, 6), atol=1e-9)
    ((k, e),) = curves_of(gaps, "minima found")
    both = (k > k_s) & (k < k_n)
    down = bifurcation.column("overlap_down")
    np.testing.assert_allclose(e[both], energy_of(k[both], down[both], 6), atol=1e-7)


def test_order_parameters_are_those_of_the_branch(bifurcation):
    at, down = bifurcation.column("beta_eff"), bifurcation.column("overlap_down")
    p1, p2 = (1 + 5 * down) / 6, (1 - down) / 6
    expected = (
        1 / (p1**2 + 5 * p2**2),
        -p1 * np.log(p1) - 5 * p2 * np.log(p2),
        1 + np.ceil(np.maximum(0.9 - p1, 0) / p2),
        np.maximum(at * p2, at * 6 * p1 * p2),
    )
    for panel, values in zip(bifurcation.drawn["panels"][1]["rows"], expected, strict=True):
        ((_, y),) = curves_of(panel, "down from the patterns")
        np.testing.assert_allclose(y, values, rtol=1e-4)


# ---- phase diagram, collapse ---------------------------------------------------------------------


def test_the_phase_diagram_lies_on_the_exact_lines(phase_diagram):
    assert all(row["error"] < 1e-5 for row in phase_diagram.results["rows"])
    (diagram,) = phase_diagram.drawn["phase_diagram"]
    assert diagram["n"].tolist() == [4, 5, 6]
    lines = list(diagram["exact"].values())
    np.testing.assert_allclose(lines[0], [3.2187411, 3.5645018, spinodal(6)], rtol=1e-7)
    np.testing.assert_allclose(
        lines[1], [2 * (n - 1) / (n - 2) * math.log(n - 1) for n in (4, 5, 6)]
    )
    np.testing.assert_array_equal(lines[2], [4, 5, 6])
    for line, (sizes, values) in zip(lines, diagram["measured"].values(), strict=True):
        assert sizes == [4, 6]
        np.testing.assert_allclose(values, line[[0, 2]], rtol=1e-5)


def test_sets_of_two_shapes_have_one_axis_of_beta_eff(collapse):
    assert len(collapse.results["rows"]) == 2
    assert all(row["error"] < 1e-6 for row in collapse.results["rows"])
    assert len(collapse.columns["p1"]) == 12
    first, second = (collapse.column(k).reshape(2, 6) for k in ("beta", "beta_eff"))
    assert not np.allclose(first[0], first[1])
    np.testing.assert_allclose(second[0], second[1])


def test_weights_collapse_onto_the_branch(collapse):
    raw, scaled, single = collapse.drawn["panels"][0]["rows"]
    marks = dict(zip(("$K_s(6)$", "$K_c(6)$", "$N=6$"), theory.characteristic(6), strict=True))
    assert scaled.marks == pytest.approx(marks)
    own = [name for name, _ in raw.curves]
    assert len(own) == 2
    for name, a in zip(own, (4 * 0.5, 0.25 * 1.2), strict=True):  # D^2/2 of the two shapes
        ((beta, p),), ((k, q),), ((ratio, r),) = (curves_of(c, name) for c in (raw, scaled, single))
        np.testing.assert_allclose(beta * a, k)
        np.testing.assert_allclose(ratio * spinodal(6), k)
        assert p.tolist() == q.tolist() == r.tolist()
        on_branch(k, (6 * p - 1) / 5, 6, stable=True)
        np.testing.assert_allclose(p[ratio < 1], 1 / 6, atol=1e-6)
        assert (p[ratio > 1] > 0.5).all()


def test_exact_branches_stand_beside_the_collapse(collapse):
    _, scaled, single = collapse.drawn["panels"][0]["rows"]
    for word, stable in (("exact", True), ("exact, unstable", False)):
        for panel, unit in ((scaled, 1.0), (single, spinodal(6))):
            ((k, p),) = curves_of(panel, word)
            on_branch(k * unit, (6 * p - 1) / 5, 6, stable)


# ---- basins, landscape ---------------------------------------------------------------------------


def test_shares_of_basins_sum_to_one_and_are_drawn(basins):
    shares = [basins.column(k) for k in list(basins.columns)[2:5]]
    np.testing.assert_allclose(sum(shares), 1)
    (drawn,) = basins.drawn["shares"]
    marked(drawn["marks"], 6)
    np.testing.assert_array_equal(list(drawn["parts"].values()), shares)
    at = np.asarray(drawn["x"])
    assert (np.asarray(list(drawn["parts"].values()))[:, at < spinodal(6)].T == [1, 0, 0]).all()


def test_the_watershed_is_the_unstable_branch(basins):
    edge, exact = basins.column("watershed"), basins.results["columns"]["exact_watershed"]
    np.testing.assert_allclose(edge, exact, atol=2e-4)
    below = basins.drawn["shares"][0]["below"]
    ((k, m),) = curves_of(below, "watershed, exact")
    on_branch(k, m, 6, stable=False)
    ((k, m),) = curves_of(below, "watershed, measured")
    known = (k > spinodal(6)) & (k < 6)
    assert known.any()
    np.testing.assert_allclose(
        np.expm1(k * m)[known] / (np.exp(k * m) + 5)[known], m[known], atol=1e-3
    )


def test_maps_hold_energies_of_their_plane(landscape):
    (drawn,) = landscape.drawn["landscape"]
    u, half = drawn["u"], drawn["u"][-1]
    np.testing.assert_array_equal(u, drawn["v"])
    x = patterns.equidistant(6)[:3]
    for (name, grid), k in zip(drawn["grids"], (3, 5, 8), strict=True):
        assert name.endswith(f"= {k}")
        assert grid.shape == (12, 12)
        assert np.isfinite(grid).all()
        # E at the corner of the map, from its place in the plane
        corner = x.mean(axis=0) - half * axes_of(x).sum(axis=0)
        z = k * patterns.equidistant(6) @ corner
        truth = -np.log(np.exp(z).sum()) / k + corner @ corner / 2 + math.log(6) / k + 0.5
        assert grid[0, 0] == pytest.approx(truth, abs=1e-6)


def test_minima_stand_where_theory_says_on_the_maps(landscape):
    assert [row["minima"] for row in landscape.results["rows"]] == [1, 7, 6]
    x = patterns.equidistant(6)[:3]
    corners = np.linalg.norm(x - x.mean(axis=0), axis=1)
    for marks, k in zip(landscape.drawn["landscape"][0]["points"], (3, 5, 8), strict=True):
        np.testing.assert_allclose(np.linalg.norm(marks["pattern"], axis=1), corners, atol=1e-9)
        own, other = marks["pattern's own minimum"], marks["undecided minimum"]
        assert (len(own), len(other)) == {3: (0, 1), 5: (3, 1), 8: (3, 0)}[k]
        np.testing.assert_allclose(other, 0, atol=1e-6)
        shrunk = marks["pattern"] * (6 * equidistant.weight(6, [k])[0] - 1) / 5
        assert not len(own) or np.abs(own[:, None] - shrunk).sum(axis=2).min(axis=1).max() < 1e-6


def test_energies_along_the_line_are_those_of_its_overlap(landscape):
    for (_, curve), k in zip(
        landscape.drawn["landscape"][0]["line"].curves, (3, 5, 8), strict=True
    ):
        zero = np.abs(curve.x).argmin()
        assert curve.x[zero] == pytest.approx(0, abs=1e-9)
        # the state at s has order parameter s
        np.testing.assert_allclose(curve.y, energy_of(k, np.asarray(curve.x), 6), atol=1e-6)


# ---- retrieval, spectrum -------------------------------------------------------------------------


def test_retrieval_finds_all_where_it_is_cold_enough(retrieval):
    assert [r["corruption"] for r in retrieval.results["records"]] == ["noise", "mask"]
    assert set(retrieval.columns["corruption"]) == {"noise", "mask"}
    assert retrieval.column("found").max() == 1


def test_shares_found_are_drawn_over_beta_eff(retrieval):
    noise, mask, errors = retrieval.drawn["panels"][0]["rows"]
    for panel, name in ((noise, "noise 0.3"), (mask, "mask 0.2")):
        assert panel.marks == {"$K_s$": pytest.approx(spinodal(6))}
        records = retrieval.results["records"]
        record = next(r for r in records if name.startswith(r["corruption"]))
        ((k, share),) = curves_of(panel, name)
        np.testing.assert_array_equal(share, record["found"])
        np.testing.assert_allclose(k[[0, -1]], [0.5 * spinodal(6), 30 * spinodal(6)])
        assert (share[[0, -1]] == [0, 1]).all()
    assert [name for name, _ in errors.curves] == ["noise 0.3", "noise 0.3, one update"]


def test_the_spectral_report_shows_variances_and_leads(spectrum):
    assert spectrum.results["report"]["N"] == 6
    axes, separations, _ = spectrum.drawn["panels"][0]["rows"]
    x = patterns.random(0, 6, 6)
    spread = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    ((rank, values),) = curves_of(axes, "")
    assert rank.tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(values, spread[:5] / spread.sum(), rtol=1e-9)
    gram = x @ x.T
    lead = [gram[i, i] - max(gram[i, j] for j in range(6) if j != i) for i in range(6)]
    ((found, order),) = curves_of(separations, "")
    np.testing.assert_allclose(found, np.sort(lead) / mean_half_squared(x), rtol=1e-6)
    np.testing.assert_allclose(order, np.arange(1, 7) / 6)


def test_the_spectral_report_shows_onsets_beside_predictions(spectrum):
    assert len(spectrum.columns["onset_beta_eff"]) == 6
    share = spectrum.drawn["panels"][0]["rows"][2]
    onset = spectrum.column("onset_beta_eff")
    ((k, y),) = curves_of(share, "")
    np.testing.assert_allclose(y, [np.mean(onset <= at) for at in k])
    marks = dict(share.marks)
    first = spectrum.results["report"]["first_instability"]["beta"]
    a = mean_half_squared(patterns.random(0, 6, 6))
    assert marks.pop("mean lost") == pytest.approx(first * a)
    marked(marks, 6)


def mean_half_squared(x):
    return np.mean([np.sum((x[i] - x[j]) ** 2) / 2 for i in range(len(x)) for j in range(i)])


# ---- capacity, metastable states -----------------------------------------------------------------


def test_onsets_of_all_sets_are_pooled(capacity):
    (record,) = capacity.results["records"]
    assert len(record["onset"]) == len(capacity.columns["onset"]) == 12
    assert record["predicted"] == pytest.approx(theory.spinodal(6).K)


def test_capacity_is_drawn_as_the_distribution_of_onsets(capacity):
    steps, points = capacity.drawn["panels"][0]["rows"]
    onset = capacity.column("onset")
    ((k, share),) = curves_of(steps, "random 6x6")
    np.testing.assert_allclose(share, [np.mean(onset <= at) for at in k])
    assert (share[0], share[-1]) == (0, np.mean(np.isfinite(onset)))
    ((x, y),) = curves_of(points, "random 6x6")
    assert x == pytest.approx(spinodal(6))
    assert y == np.sort(onset)[5]
    ((x, y),) = curves_of(points, "")
    assert x.tolist() == y.tolist()


@pytest.mark.slow
def test_windows_of_groups_are_exact(metastable):
    (found,) = metastable.results["windows"]
    np.testing.assert_allclose(found["low"], found["exact"][0], rtol=1e-4)
    np.testing.assert_allclose(found["high"], found["exact"][1], rtol=1e-4)


@pytest.mark.slow
def test_the_tree_joins_patterns_that_have_met(metastable):
    assert metastable.results["trees"][0]["minima"][[0, -1]].tolist() == [8, 1]
    (drawn,) = metastable.drawn["merge_tree"]
    label, leaves = drawn["label"], drawn["order"]
    assert (np.diff(drawn["beta_eff"]) < 0).all()
    assert label[0].tolist() == list(range(8))  # a leaf is a minimum
    assert drawn["number"].tolist() == [len(np.unique(row)) for row in label]
    assert sorted(leaves) == list(range(8))
    for row in label:  # what has met lies side by side, so that no two branches cross
        assert len(np.unique(row)) == 1 + np.count_nonzero(np.diff(row[leaves]))


@pytest.mark.slow
def test_leaves_are_named_and_coloured_by_group(metastable):
    (drawn,) = metastable.drawn["merge_tree"]
    assert drawn["names"] == [str(i // 2) for i in range(8)]
    assert drawn["colours"] == [i // 2 for i in range(8)]
    assert drawn["marks"] == {"$K_s$ of 8 equidistant": pytest.approx(spinodal(8))}


# ---- diffusion -----------------------------------------------------------------------------------


class Digits(NamedTuple):
    """The exact problem: its mixture; means, weights and classes of the digits, their width."""

    mixture: Any
    means: np.ndarray
    weights: np.ndarray
    label: np.ndarray
    scale: float


@pytest.fixture(scope="module")
def digits():
    mixture = problems.make("digits", ("0",), problems.Source("exact")).mixture
    present = np.isfinite(np.asarray(mixture.log_weights))
    means = np.asarray(mixture.means, float)[present]
    weights = np.exp(np.asarray(mixture.log_weights, float)[present])
    scale = float(np.asarray(mixture.scales)[present].max())
    return Digits(mixture, means, weights, np.nonzero(present)[0], scale)


@pytest.fixture(scope="module")
def known_by_hand(digits, diffusion):
    """What is known at each level: the exact posterior of images noised by hand, in place of a
    sampler's states. Resolved shares [T], and medians of members [T]."""
    rng = np.random.default_rng(0)
    which = rng.choice(len(digits.means), 4000, p=digits.weights / digits.weights.sum())
    x0 = digits.means[which] + digits.scale * rng.normal(size=(4000, 64))
    zero = digits.label[which] == 0
    share, members = [], []
    for level in diffusion.column("logsnr"):
        sigma = math.exp(-level / 2)
        x = (x0 + sigma * rng.normal(size=x0.shape)).astype(np.float32)
        p = np.exp(np.asarray(digits.mixture.log_posterior(x, 1.0, sigma))[:, 0])
        share.append(p[zero].mean() - p[~zero].mean())
        members.append(np.median(p[zero]))
    return share, members


@pytest.mark.slow
def test_chains_decide_where_noised_images_do(diffusion, known_by_hand):
    share, members = known_by_hand
    logsnr = diffusion.column("logsnr")
    resolved = diffusion.column("share of the label resolved")
    np.testing.assert_allclose(resolved, share, atol=0.06)  # a hundred chains end in the class
    found = diffusion.results["measured"]["share of the label resolved"]
    np.testing.assert_allclose(found, window.window_of(logsnr, share), atol=0.25)
    half = window.crossing(logsnr, members, 0.5)
    assert diffusion.results["members_cross"] == pytest.approx(half, abs=0.2)


@pytest.mark.slow
def test_markers_follow_from_the_data_alone(diffusion, digits, known_by_hand):
    # The two Gaussians of the last markers only resemble the digits.
    means, weights, label = digits.means, digits.weights, digits.label
    marks = diffusion.results["predicted_logsnr"]
    share = np.array([weights[label == c].sum() for c in range(10)])
    centres = [weights[label == c] @ means[label == c] / share[c] for c in range(10)]
    spread, between = (
        np.linalg.eigvalsh(np.cov(np.transpose(x), bias=True, aweights=w))[-1]
        for x, w in ((means, weights), (centres, share))
    )
    assert marks["speciation"] == pytest.approx(-math.log(spread + digits.scale**2))
    assert marks["class_speciation"] == pytest.approx(-math.log(between))
    mean_half = means.var(axis=0).sum() * len(means) / (len(means) - 1)
    beta = 2 * math.log(len(means)) / mean_half
    assert marks["collapse"] == pytest.approx(-math.log(1 / beta - digits.scale**2))
    half = window.crossing(diffusion.column("logsnr"), known_by_hand[1], 0.5)
    assert marks["evidence"] == pytest.approx(half, abs=0.4)
    measured = diffusion.results["measured"]
    found = measured["share of the label resolved"].middle
    assert measured["resolved, predicted"].middle == pytest.approx(found, abs=0.5)


@pytest.mark.slow
def test_the_window_is_drawn_from_its_results(diffusion, digits):
    results = diffusion.results
    (drawn,) = diffusion.drawn["window"]
    assert list(drawn["marks"].values()) == list(results["predicted_logsnr"].values())
    assert drawn["measured"] == results["measured"]
    resolved = diffusion.column("share of the label resolved")
    np.testing.assert_array_equal(drawn["resolved"]["share of the label resolved"], resolved)
    (_, _, inside), (_, _, outside) = drawn["bands"]
    assert inside.shape == (50, results["chains_in_class"])
    assert outside.shape == (50, 1024 - results["chains_in_class"])
    assert inside[-1].min() > 0.5 > outside[-1].max()
    prior = digits.weights[digits.label == 0].sum()
    assert drawn["prior"] == pytest.approx(prior)
    np.testing.assert_allclose(drawn["scale"][0], prior / (1 - prior), rtol=0.05)


# ---- sets and bad input --------------------------------------------------------------------------


def test_patterns_from_a_file(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "keys.npy", rng.normal(size=(6, 2, 3)))
    source = sets.Source(str(tmp_path / "keys.npy"))
    made = sets.build(source, count=3)
    assert made.patterns.shape == (6, 6)  # all of it, as it is
    assert made.name.startswith("keys")


def test_images_are_the_same_for_a_seed_and_equally_many_per_class():
    source = sets.Source("digits", count=40)
    first, again, other = (sets.build(source, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.patterns, again.patterns)
    assert not np.array_equal(first.patterns, other.patterns)
    for made in (first, other):
        assert np.bincount(made.labels).tolist() == [4] * 10


REFUSED = [
    (("bifurcation", "--seed", "-1"), "--seed must be at least 0 and below 2^32, got -1"),
    (("bifurcation", "--angle", "60", *RANDOM), "--angle says nothing about random"),
    (("spectrum", "--dimension", "9"), "--dimension says nothing about images"),
    (("bifurcation", "--betas", "1000000"), "--betas must be at most 10000, got"),
    (("landscape", "--resolution", "100000"), "--resolution must be at most 1001"),
    (("basins", "--starts", "1000000"), "--starts must be at most 100000"),
    (("phase-diagram", "--counts", "5", "0"), "--counts must be at least 3, got 0"),
    (("attention", "--layout", "in_out"), "--layout belongs to weights from a --file"),
    (("attention", "--tokens", "1"), "--tokens must be at least 2, got 1"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED)
def test_what_would_be_ignored_or_never_end_is_refused(tmp_path, words, said):
    with pytest.raises(InputError, match=re.escape(said)):
        hopfield.main([*words, "--out", str(tmp_path / "r")])
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_attention_takes_all_tokens_and_says_how_many(tmp_path):
    rng, file = np.random.default_rng(0), str(tmp_path / "layer.safetensors")
    tensors = {"k": rng.normal(size=(8, 8)), "x": 3 * rng.normal(size=(100, 8))}
    save_file(tensors, file)
    words = ("attention", "--file", file, "--key", "k", "--inputs", "x", "--heads", "2")
    everything = work(tmp_path / "all", *words).results
    assert [h["tokens"] for h in everything["heads"]] == [100, 100]
    few = work(tmp_path / "few", *words, "--tokens", "40").results
    assert few["heads"][0]["K_s"] == pytest.approx(theory.spinodal(40).K)
    assert "the first 40 of 100 tokens" in few["tables"][0]["title"]
    with pytest.raises(InputError, match="x holds 100 tokens, got --tokens 101"):
        hopfield.main([*words, "--tokens", "101"])
    with pytest.raises(InputError, match="--head-dim belongs to the demonstration"):
        hopfield.main([*words, "--head-dim", "4"])


def test_limits_are_rounded_for_people():
    shown = [common.count_of(limit) for limit in (2.0, 158.3, 2937.9, 451_833.2, 1.00757e19)]
    assert shown == ["2", "158", "2,930", "451,000", "1.0e+19"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bifurcation", "--count", "1"), "--count must be at least 2 patterns, got 1"),
        (("bifurcation", "--low", "0"), "from a number > 0 to a larger one, got 0 to"),
        (("bifurcation", "--low", "-2"), "from a number > 0 to a larger one, got -2 to"),
        (("bifurcation", "--betas", "1"), "--betas must be at least 2, got 1"),
        (("bifurcation", "--angle", "170"), "16 patterns can have equal angles"),
        (("bifurcation", "--patterns", "digit"), "did you mean 'digits'?"),
        (("bifurcation", "--patterns", "nan.npy"), "row 1 of the patterns holds NaN or infinity"),
        (
            ("bifurcation", "--patterns", "zero.npy"),
            "row 2 of the patterns holds nothing but zeros",
        ),
        (("bifurcation", "--patterns", "same.npy"), "rows 0 and 2 of the patterns are equal"),
        (("bifurcation", "--patterns", "flat.npy"), "must hold patterns as rows [N, d], got shape"),
        (("bifurcation", "--patterns", "one.npy"), "at least 2 patterns, got N = 1"),
        (("bifurcation", "--patterns", "text.npy"), "cannot be read as NumPy's arrays"),
        (("bifurcation", "--patterns", "none.npy"), "none.npy does not exist"),
        (("phase-diagram", "--counts", "2", "6"), "--counts must be at least 3, got 2"),
        (("phase-diagram", "--counts", "6"), "at least two numbers of patterns"),
        (("collapse", "--betas", "2"), "--betas must be at least 6, got 2"),
        (("basins", "--starts", "0"), "--starts must be at least 1, got 0"),
        (("basins", "--concentration", "0"), "--concentration must be a number > 0, got 0"),
        (("landscape", "--at", "-1"), "beta must be finite and > 0, got -1"),
        (("landscape", "--plane", "pca"), "unknown plane 'pca'"),
        (("landscape", "--count", "2"), "a plane needs at least 3 patterns, got 2"),
        (("retrieval", "--noise", "0"), "--noise must be > 0, got 0"),
        (("retrieval", "--mask", "2"), "--mask must be > 0 and at most 1, got 2"),
        (("retrieval", "--count", "9999"), "digits has 1797 images, --count asks for 9999"),
        (("capacity", "--sizes", "64"), "--sizes are written NxD, such as 64x128, got '64'"),
        (("capacity", "--normalise", "units"), "did you mean 'unit'?"),
        (("capacity", "--repeats", "0"), "--repeats must be at least 1, got 0"),
        (("metastable", "--count", "10"), "10 patterns cannot be split into 4 equal groups"),
        (("diffusion", "--forbid", "ten"), "unknown digits class 'ten'"),
        (("diffusion", "--steps", "2000"), "2000 steps lie outside the schedule"),
        (("diffusion", "--samples", "1"), "--samples must be at least 16, got 1"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(4, 3))
    for name, row, value in (("nan", 1, math.nan), ("zero", 2, 0.0), ("same", 2, rows[0])):
        bad = rows.copy()
        bad[row] = value
        np.save(f"{name}.npy", bad)
    np.save("flat.npy", rows[0])
    np.save("one.npy", rows[:1])
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        hopfield.main([*words, "--out", "run"])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_exit_code_two_without_traceback(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(lambda: hopfield.main(["basins", "--count", "1", "--out", str(tmp_path / "x")]))
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --count must be at least 2")
    assert said.count("\n") == 1

"""What one pattern set predicts before any iteration, and what is measured; see eval.hopfield."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np

from dng_jax.jobs.tables import Table, write_csv
from hopfield_jax import spectrum, theory
from hopfield_jax.analyses import capacity, landscape, transition
from hopfield_jax.plots import curves
from hopfield_jax.plots.curves import BETA_EFF, COLOURS, Curve, Panel

from .common import ONLY_BOUND, Outcome, marks_of, note, protocol_table, protocols, title_of
from .options import Spectrum as Config
from .sets import PatternSet, build


def prepare(config: Config) -> PatternSet:
    """The set."""
    return build(config.source, config.seed, 60)


def run(config: Config, chosen: PatternSet, folder: Path) -> Outcome:
    """The spectral report of the set beside what is measured."""
    made = spectrum.report(chosen.patterns, chosen.energy)
    measured = transition.protocols(chosen.memory(), relative=1e-4)
    first = made.first_instability
    assert first is not None
    onset = np.where(np.isfinite(measured.each), measured.each * made.a, np.inf)
    columns = {
        "pattern": np.arange(made.N),
        "separation": made.separations,
        "onset_beta_eff": onset,
    }
    write_csv(folder / "patterns.csv", [columns])
    facts = {
        "mean half squared distance a": made.a,
        "least, largest distance": f"{made.D_min:.4g}, {made.D_max:.4g}",
        "lambda_max(Cov)": made.lambda_max,
        "effective rank": made.effective_rank,
        "one attractor for beta_eff below": made.one_attractor * made.a,
        "branch from the mean ends in a": f"{first.kind} at beta_eff {first.beta * made.a:.4g}",
        "1/lambda_max(Cov) in beta_eff": made.a / made.lambda_max,
        "no fixed point as beta -> infinity": f"{made.norm_bias:.1%}",
    }
    left = Table.of(
        f"{chosen.name}: spectral report",
        [{"quantity": name, "value": value} for name, value in facts.items()],
        {"quantity": "quantity", "value": "value"},
    )
    compared = protocols(chosen, measured, first)
    notes = [made.warning] if made.warning else []
    notes += note("onsets of patterns", measured.unresolved, ONLY_BOUND)
    results = {"report": dataclasses.asdict(made), "protocols": compared, "measured": measured}
    pictures = [partial(draw, folder, chosen, made, first, onset)]
    return Outcome(results, [left, protocol_table(chosen, compared)], notes, pictures)


def draw(
    folder: Path,
    chosen: PatternSet,
    made: spectrum.SpectralReport,
    first: spectrum.Instability,
    onset: np.ndarray,
) -> None:
    """Eigenvalues, separations, onsets."""
    values = landscape.variances(chosen.patterns)
    values = values[values > 1e-4]
    rank = np.arange(1, len(values) + 1)
    order = np.arange(1, made.N + 1) / made.N
    k_s, k_c, _ = theory.characteristic(made.N)
    lost = first.beta * made.a
    finite = onset[np.isfinite(onset)]
    at = np.geomspace(0.8 * min(k_s, lost), 1.2 * max(k_c, lost, *finite), 400)
    eigenvalues = Curve(rank, values, "line")
    separations = Curve(np.sort(made.separations) / made.a, order, "stable", COLOURS[1])
    share = Curve(at, capacity.share(onset, at), "stable", COLOURS[2])
    apart, own = "separation / a (below 0: norm bias)", "share with own minimum"
    marks, unit = marks_of(chosen) | {"mean lost": lost}, (-0.03, 1.03)
    curves.panels(
        [
            Panel([("", eigenvalues)], "share of the variance", "principal axis", log_y=True),
            Panel([("", separations)], "share of patterns", apart, marks={"0": 0.0}, log_x=False),
            Panel([("", share)], own, BETA_EFF, marks=marks, y_limits=unit),
        ],
        folder / "spectrum.png",
        across=True,
        title=title_of("Spectral report", chosen),
    )

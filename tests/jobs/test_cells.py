"""Numbers that rest on few samples are marked in every table that shows them, and it says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dng_jax.jobs import cells
from dng_jax.metrics import class_report, tradeoff
from dng_jax.metrics.forecasts import class_forecasts, log_odds_error, posterior_error
from eval.calibration import job as calibration
from eval.class_removal import job as class_removal
from eval.exact import dimension
from eval.exact import job as exact
from eval.exact import options as exact_options
from eval.study import report, tables

ALLOWED = np.arange(4) != 0
FEW, MANY = np.array([1, 9, 0, 6]), np.array([100, 300, 300, 300])


def test_a_number_and_its_interval():
    assert cells.interval(0.0241, 0.01289, 0.0365) == "0.0241 [0.0129, 0.0365]"
    assert cells.interval(1.234, 0.5, np.inf, 2, True) == "1.23* [0.50, inf]"
    assert cells.number(np.nan) == "–"


def removal_table(counts):
    record = {"rule": "np=1", "report": class_report(counts, ALLOWED), "frechet_distance": 1.0}
    record |= {"seconds_per_image": None, "network_calls_per_image": 50, "of_their_class": None}
    record |= {"negatives_asked_per_image": None}
    return class_removal.table_of("a", [record])


def study_table(counts):
    labels = {"np": [np.repeat(np.arange(4), counts)[None]]}
    curve = tradeoff.curves(labels, [(0,)], 4, {"np": [1.0]}, resamples=100)["np"]
    return tables.points_table("a", [{"rule": "np=1"} | tables.point(curve, 0)], "rule")


def exact_table(counts):
    kl = class_report(counts, ALLOWED).forward
    record = {"what": "np", "steps": 5, "leak": 0, "leak_low": 0, "leak_high": 0, "error": None}
    record |= {"kl": kl.corrected, "kl_low": kl.low, "kl_high": kl.high, "sparse": kl.sparse}
    return exact.table_of("a", [record | {"error_chain": None, "asked": None}])


def dimension_table(counts):
    report = class_report(counts, ALLOWED)
    gap = log_odds_error(np.ones((2, 3)), np.zeros((2, 3)), 5.0)
    record = {"dataset": "digits", "dimension": 64, "patterns": 9, "steps": 2, "tracker": "pair"}
    record |= {"report": report, "log_odds": gap, "logsnr": [0.0, 1.0]}
    record |= {"probability": posterior_error(np.ones((2, 3)), np.zeros((2, 3)))}
    return dimension.table_of(exact_options.Config(), [record])


def calibration_table(counts):
    labels = np.repeat(np.arange(4), counts)
    found = class_forecasts(np.full((2, len(labels), 4), 0.25), labels)
    record = {"sampler": "ddpm", "tracker": "pair", "fit": "raw"} | found
    return calibration.table_of(calibration.Config(), [record])


@pytest.mark.parametrize(
    "table", [removal_table, study_table, exact_table, dimension_table, calibration_table]
)
def test_few_samples_are_marked_in_every_table(table):
    few, many = table(FEW), table(MANY)
    assert any(cells.MARK in cell for cell in few.rows[0])
    assert cells.SPARSE in few.title
    assert not any(cells.MARK in cell for cell in (many.title, *many.rows[0]))


@pytest.mark.parametrize("table", [removal_table, study_table, exact_table, dimension_table])
def test_a_lost_class_shows_no_upper_end(table):
    assert any(cell.endswith(", inf]") for cell in table(FEW).rows[0])


def test_the_report_page_shows_code_as_code_and_tables_that_fold():
    table = {"part": "curves", "title": "a <b>", "columns": ["rule", "KL"], "rows": [["np=1", "0"]]}
    provenance = {"git": None, "device_count": 1, "device": "cpu", "cpu": "x", "cpu_count": 2}
    provenance |= {"packages": {"jax": "1", "flax": "2"}, "time_utc": "2026-01-01T00:00:00"}
    config = {"dataset": "digits", "seeds": [0], "samples": 8, "steps": 5}
    results = {"config": config, "provenance": provenance, "classifier": "c", "classes": ["0"]}
    results |= {"command": "python -m eval.study --forbid 0", "tables": [table], "pictures": []}
    page = report.render(results, Path())
    text = page[: page.index("<pre>")]
    assert "`" not in text
    assert "<code>python -m eval.study --forbid 0</code>" in text
    assert "a &lt;b&gt;" in text
    # Headings fold, and the page is wide enough for nine columns of numbers at 1280 pixels.
    style = text[text.index("<style>") : text.index("</style>")]
    assert "th { vertical-align: bottom } td { white-space: nowrap }" in style
    assert "max-width: 80em" in style

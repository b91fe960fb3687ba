"""What a report says where images are forbidden, and no class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dng_jax.experiments import problems
from dng_jax.experiments.problems import Problem
from dng_jax.jobs.cells import NOTHING, interval, milliseconds, number, titled
from dng_jax.jobs.tables import Table

from .options import Config

X_LABEL = "samples within the radius of a forbidden image (%)"


def made(config: Config) -> Problem:
    """The problem that the options describe; says what was not taken as it stands."""
    assert config.forbid_images is not None  # the job checks it
    problem = problems.make_of_images(
        config.dataset, config.forbid_images, config.bandwidth, config.radius, config.source
    )
    assert problem.images is not None
    for note in problem.images.notes:
        print(note)
    return problem


def facts_of(problem: Problem) -> dict[str, Any]:
    """What was forbidden, for results.json."""
    images = problem.images
    assert images is not None
    return {
        "images": len(images.images),
        "sha256": images.sha256,
        "radius": images.radius,
        "bandwidth": images.bandwidth,
        "prior": images.prior,
        "repeated": images.repeated,
        "passed_over": len(images.passed_over),
        "absent": images.absent,
    }


def table_of(title: str, problem: Problem, records: Sequence[dict[str, Any]]) -> Table:
    """The table a person reads; KL and Frechet distance are those of the samples that stayed
    outside of the radius."""
    images = problem.images
    assert images is not None
    n = records[0]["nearness"].inside.total
    said = f"{title}, radius {images.radius:.2f}, bandwidth {images.bandwidth:g}, n = {n} per rule"
    said = "; ".join([said, *images.notes])
    reports = [r["report"] for r in records if r["report"] is not None]
    return Table.of(
        titled(said, (report.forward.sparse for report in reports)),
        records,
        {
            "rule": "rule",
            "within radius % [95%]": _within,
            "distance to the nearest, mean [95%]": _mean,
            "least": lambda r: f"{r['nearness'].least:.2f}",
            "KL of the rest [95%]": _kl,
            "Frechet of the rest": lambda r: number(r["frechet_distance"], digits=2),
            "ms per image": lambda r: milliseconds(r["seconds_per_image"]),
            "calls per kept image": "network_calls_per_image",
        },
    )


def _within(r: dict[str, Any]) -> str:
    s = r["nearness"].inside
    return f"{100 * s.value:.2f} [{100 * s.low:.2f}, {100 * s.high:.2f}]"


def _mean(r: dict[str, Any]) -> str:
    near = r["nearness"]
    return interval(near.mean, near.low, near.high, digits=2)


def _kl(r: dict[str, Any]) -> str:
    if r["report"] is None:
        return NOTHING
    kl = r["report"].forward
    return interval(kl.corrected, kl.low, kl.high, sparse=kl.sparse)

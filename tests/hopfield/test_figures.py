"""What the figures show: lines, symbols, marks, bands and bars, read back from the axes."""

from __future__ import annotations

import math

import matplotlib.collections
import numpy as np
import pytest
from matplotlib import colors

from hopfield_jax.plots import curves, figures, optima
from hopfield_jax.plots.curves import COLOURS, GREY, Curve, Panel

X = np.geomspace(1, 20, 9)
PANEL = Panel(
    [
        ("a", Curve(X, X / 20, "measured")),
        ("b", Curve(X, np.where(X < 3, np.nan, 0.5), "unstable")),
        ("", Curve(X, np.ones(9), "dashed", GREY)),
    ],
    "y",
    marks={"$K_s$": 5.0, "$K_c$": 5.2, "far": 99.0},
)


@pytest.fixture
def drawn(monkeypatch):
    """Draws for good, and hands back the figure in place of its path."""

    def keep(figure, path):
        figure.savefig(path)
        return figure

    monkeypatch.setattr(curves, "save", keep)
    monkeypatch.setattr(figures, "save", keep)
    monkeypatch.setattr(optima, "save", keep)


def lines(axes, label=None):
    """(x, y) of the lines of one label; verticals and horizontals across the axes left out."""
    across = (axes.get_xaxis_transform(), axes.get_yaxis_transform())
    chosen = [line for line in axes.lines if line.get_transform() not in across]
    if label is not None:
        chosen = [line for line in chosen if line.get_label() == label]
    return [np.array(line.get_data(), float) for line in chosen]


def verticals(axes):
    """Where marks stand, from left to right."""
    across = axes.get_xaxis_transform()
    return sorted(line.get_xdata()[0] for line in axes.lines if line.get_transform() == across)


def words(axes):
    return [text.get_text() for text in axes.texts]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_panels_show_their_curves_and_marks(drawn, tmp_path):
    figure = curves.panels([PANEL, PANEL], tmp_path / "a.png", title="two")
    assert legend(figure) == ["a", "b"]
    for axes, named in zip(figure.axes, (True, False), strict=True):
        for (_, curve), (x, y) in zip(PANEL.curves, lines(axes), strict=True):
            np.testing.assert_array_equal(x, curve.x)
            np.testing.assert_array_equal(y, curve.y)
        points, dots, dash = axes.lines[:3]
        assert (points.get_linestyle(), points.get_markerfacecolor()) == ("None", "none")
        assert dots.is_dashed()
        assert colors.same_color(dash.get_color(), GREY)
        assert verticals(axes) == [5, 5.2]  # what lies outside is left out
        assert words(axes) == (["$K_s$", "$K_c$"] if named else [])
        assert axes.get_xscale() == "log"
    heights = [text.xyann[1] for text in figure.axes[0].texts]
    assert heights[0] != heights[1]  # names that would overlap
    figure = curves.panels([PANEL, PANEL], tmp_path / "b.png", across=True, legend="best")
    assert not figure.legends
    assert [words(axes) for axes in figure.axes] == [["$K_s$", "$K_c$"]] * 2


def test_a_phase_diagram_has_its_lines_points_and_regions(drawn, tmp_path):
    n = np.array([3, 10, 30])
    exact = {k: f * n for k, f in (("low", 0.5), ("middle", 0.7), ("high", 1.0))}
    figure = figures.phase_diagram(n, exact, {"m": ([3, 30], [1.5, 15])}, tmp_path / "c.png")
    (axes,) = figure.axes
    for name, y in exact.items():
        np.testing.assert_array_equal(lines(axes, name), [[n, y]])
    np.testing.assert_array_equal(lines(axes, "m"), [[[3, 30], [1.5, 15]]])
    assert legend(figure) == ["low", "middle", "high", "m"]
    # from below: one attractor, centroid lowest, patterns lowest, centroid unstable
    places = {
        text.get_text().partition(" ")[0]: getattr(text, "xy", text.get_position())
        for text in axes.texts
    }
    for word, above in (("one", 0), ("centroid", 1), ("patterns", 2), ("N", 3)):
        x, y = places[word]
        assert sum(y > factor * x for factor in (0.5, 0.7, 1.0)) == above


def test_shares_are_stacked(drawn, tmp_path):
    parts = {"a": X / 20, "b": 1 - X / 20}
    figure = curves.shares(X, parts, tmp_path / "d.png", below=PANEL, marks={"$N$": 6.0})
    above, below = figure.axes
    bands = [c for c in above.collections if isinstance(c, matplotlib.collections.PolyCollection)]
    assert [band.get_label() for band in bands] == ["a", "b"]
    for band, (low, high) in zip(bands, ((0 * X, X / 20), (X / 20, 0 * X + 1)), strict=True):
        corners = {(round(x, 9), round(y, 9)) for x, y in band.get_paths()[0].vertices}
        for edge in (low, high):
            assert set(zip(X.round(9).tolist(), edge.round(9).tolist(), strict=True)) <= corners
    assert verticals(above) == [6]
    assert verticals(below) == [5, 5.2]
    assert legend(figure) == ["a", "b"]
    assert above.get_xlim() == below.get_xlim() == (1, 20)


def test_a_merge_tree_has_one_line_a_minimum(drawn, tmp_path):
    label = np.array([[0, 1, 2, 3], [0, 1, 2, 1], [0, 0, 2, 0], [0, 0, 0, 0]])
    order, at = [2, 0, 3, 1], np.array([27.0, 9, 3, 1])
    figure = figures.merge_tree(
        at,
        label,
        order,
        tmp_path / "e.png",
        names=["p", "q", "r", "s"],
        colours=[0, 1, 0, 1],
        number=[4, 3, 2, 1],
        marks={"$K_s(N)$": 5.0},
    )
    above, axes = figure.axes
    level = [
        (line.get_ydata()[0], line.get_xdata(), line.get_color())
        for line in axes.lines
        if line.get_transform() != axes.get_xaxis_transform() and np.ptp(line.get_ydata()) == 0
    ]
    leaf = {pattern: i for i, pattern in enumerate(order)}
    for k, row in zip(at, label, strict=True):
        found = sorted(y for y, (low, high), _ in level if low <= k <= high)
        truth = [np.mean([leaf[i] for i in np.flatnonzero(row == g)]) for g in np.unique(row)]
        np.testing.assert_allclose(found, sorted(truth))  # leaves at 27, the root alone at 1
    assert [t.get_text() for t in axes.get_yticklabels()] == ["r", "p", "s", "q"]
    # a branch keeps its group's colour until another group joins
    ink = {y: colour for y, (low, high), colour in level if low <= 9 <= high}
    assert [ink[y] for y in sorted(ink)] == [COLOURS[0], COLOURS[0], COLOURS[1]]
    assert [colour for _, (low, high), colour in level if low <= 1 <= high] == [GREY]
    ((x, y),) = lines(above)
    assert dict(zip(x, y, strict=True)) == {27: 4, 9: 3, 3: 2, 1: 1}
    assert verticals(above) == verticals(axes) == [5]


def test_a_landscape_has_maps_points_and_a_slice(drawn, tmp_path):
    u, v = np.linspace(-2, 2, 9), np.linspace(-1, 1, 5)
    bowl = v[:, None] ** 2 + (u[None] - 1) ** 2
    points = {"pattern": np.array([[1.0, 0.0], [0.5, 0.5]]), "minimum": np.zeros((0, 2))}
    figure = figures.landscape(
        PANEL, [("one", bowl), ("two", -bowl)], u, v, [points, {}], tmp_path / "f.png"
    )
    first, second, line = figure.axes
    assert [first.get_title(), second.get_title()] == ["one", "two"]
    np.testing.assert_array_equal(lines(first)[0].T, points["pattern"])
    assert lines(second) == []
    filled = first.collections[0]
    levels = filled.levels
    assert len(levels) == 13
    assert levels[0] == 0  # at the minimum
    assert levels[-1] == pytest.approx(np.quantile(bowl, 0.8))
    innermost = filled.get_paths()[1].vertices  # the band next to it lies about (1, 0)
    np.testing.assert_allclose(
        (innermost.min(axis=0) + innermost.max(axis=0)) / 2, [1, 0], atol=0.3
    )
    assert [t.get_text() for t in line.get_legend().get_texts()] == ["a", "b", "pattern", "minimum"]
    np.testing.assert_array_equal(lines(line, "a")[0], [X, X / 20])


def test_a_window_shows_posterior_shares_scale_and_bars(drawn, tmp_path):
    rng = np.random.default_rng(0)
    t, p = np.linspace(-4, 4, 9), rng.uniform(size=(9, 41))
    share = {"known": np.linspace(0, 1, 9), "foreseen": np.linspace(0.1, 1, 9)}
    scale = rng.uniform(0.05, 3, size=(9, 41))
    figure = figures.window(
        t,
        [("in", 1, p), ("out", 0, p / 2)],
        share,
        scale,
        tmp_path / "g.png",
        marks={"speciation": -1.0, "collapse": 2.0},
        measured={"known": (-2.0, 0.5, math.nan), "foreseen": (-1.0, 0.0, 3.0)},
        prior=0.1,
    )
    first, second, third, bars = figure.axes
    for name, values in (("in", p), ("out", p / 2)):
        np.testing.assert_allclose(lines(first, name), [[t, np.sort(values, axis=1)[:, 20]]])
    low, high = np.sort(p, axis=1)[:, [4, 36]].T
    box = first.collections[0].get_paths()[0].vertices[:, 1]
    assert (box.min(), box.max()) == pytest.approx((low.min(), high.max()))
    for name, curve in share.items():
        np.testing.assert_array_equal(lines(second, name), [[t, curve]])
    ranked = np.sort(scale, axis=1)
    np.testing.assert_allclose(lines(third, "median"), [[t, ranked[:, 20]]])
    np.testing.assert_allclose(lines(third, "90%"), [[t, ranked[:, 36]]])
    assert third.get_yscale() == "log"
    for axes, level in ((first, 0.1), (third, 1 / 9)):
        across = [c for c in axes.lines if c.get_transform() == axes.get_yaxis_transform()]
        assert [line.get_ydata() for line in across] == [pytest.approx([level, level])]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["known", "foreseen"]
    spans = lines(bars)
    np.testing.assert_array_equal(spans[0], [[-2, math.nan], [0, 0]])
    np.testing.assert_array_equal(spans[2], [[-1, 3], [-1, -1]])
    assert [float(spans[i][0, 0]) for i in (1, 3)] == [0.5, 0]
    for axes in figure.axes:
        assert verticals(axes) == [-1, 2]
    assert words(first) == ["speciation", "collapse"]
    assert words(second) == []


def test_heads_show_every_head(drawn, tmp_path):
    figure = figures.heads(
        [3.0, 8.0],
        {"K_s": 5.0, "K_c": 6.0},
        {"one step": [4.0, 2.0], "minimum": [6.0, 1.0]},
        tmp_path / "h.png",
        tokens=7,
    )
    left, right = figure.axes
    assert [bar.get_height() for bar in left.patches] == [3, 8]
    assert [line.get_ydata()[0] for line in left.lines] == [5, 6]
    assert [t.get_text() for t in left.get_legend().get_texts()] == ["K_s", "K_c"]
    np.testing.assert_array_equal(lines(right, "one step"), [[[0, 1], [4, 2]]])
    np.testing.assert_array_equal(lines(right, "minimum"), [[[0, 1], [6, 1]]])
    assert right.get_ylim() == (0, 7)


def test_optima_at_an_end_are_hollow(drawn, tmp_path):
    made = [
        optima.Optimum("0.01", (2.0, 1.0, 3.0), False, "short", "C0", "o"),
        optima.Optimum("0.1", (8.0, 5.0, 8.0), True, "short", "C0", "o"),
    ]
    panel = optima.Panel(made, "best", "keys", {"K_s": 4.0})
    figure = optima.draw([[panel]], tmp_path / "optima.png", x_label="rate")
    (axes,) = figure.axes
    assert legend(figure) == ["short"]
    symbols = [line for line in axes.lines if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() for line in symbols] == ["C0", "white"]
    bars = [list(line.get_ydata()) for line in axes.lines if line not in symbols]
    assert bars == [[1, 3], [5, 8], [4, 4]]  # the mark last
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.01", "0.1"]

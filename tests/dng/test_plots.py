"""Figures: the file is there, its pixels are the data's, and bad input is named."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from dng_jax import plots
from dng_jax.errors import InputError
from dng_jax.metrics import reliability
from dng_jax.plots import grids, over_time, sensitivity, tradeoffs

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (64, 3)])
def test_image_grid_shows_every_pixel_unsmoothed(tmp_path, size, channels):
    images = RNG.choice([-1.5, 0.0, 1.0], size=(2, 3, size, size, channels))
    path = plots.image_grid(images, tmp_path / "new" / "grid.png", ["unguided", "pair"])
    shown = np.round(imread(path)[..., :3] * 255).astype(int)
    zoom = max(1, round(72 / size))
    pitch = size * zoom + 6
    # The panel stands at the bottom right, inside margins of 8 pixels.
    panel = shown[8 : 8 + 2 * pitch - 6, shown.shape[1] - 8 - (3 * pitch - 6) : -8]
    for r in range(2):
        for c in range(3):
            y, x = r * pitch, c * pitch
            tile = panel[y : y + size * zoom, x : x + size * zoom]
            wanted = np.round((np.clip(images[r, c], -1, 1) + 1) / 2 * 255)
            wanted = np.repeat(np.repeat(wanted, zoom, axis=0), zoom, axis=1)
            assert np.abs(tile - wanted).max() <= 1


def test_curves_are_drawn(tmp_path):
    x = np.array([3.0, 1.0, 0.0])
    y = np.array([0.1, 0.2, 0.3])
    curves = {"pair": (x, x / 2, x * 2, y, y - 0.1, y + 0.1), "np": (x, None, None, y, None, None)}
    p = RNG.uniform(size=(9, 30))
    curve = reliability(RNG.uniform(size=50), RNG.integers(0, 2, 50))
    drawn = [
        plots.trade_off(curves, tmp_path / "t.png", references={"perfect": curves["np"]}),
        plots.trade_off({"no leak": ([0.0], None, None, [0.1], None, None)}, tmp_path / "z.png"),
        plots.posterior_over_time({"a": p}, tmp_path / "p.png", logsnr=np.linspace(-5, 5, 9)),
        plots.posterior_over_time({"a": ("quantiles", p[:, :3])}, tmp_path / "q.svg"),
        plots.reliability({"raw": curve}, tmp_path / "r.png"),
        plots.error_over_time({"pair": p[:, 0], "classes": np.zeros(9)}, tmp_path / "e.png"),
        plots.responses({"tau": {"pair": (x + 1, y, y, y, y, y, y)}}, tmp_path / "s.png"),
        plots.front(
            {"pair": (x, y)},
            (x[:2], y[:2]),
            (x[:2], None, None, y[:2], y[:2], y[:2] + np.inf),
            tmp_path / "f.png",
            labels=("leak", "KL"),
            limits={"x": 1.5},
            others={"np": (x, y)},
        ),
    ]
    for path in drawn:
        assert path.stat().st_size > 3000
    assert imread(drawn[0]).shape[:2] == (585, 900)  # 150 dpi


@pytest.mark.parametrize(
    ("point", "interval"),
    [((3.1, 0.21), (2.0, 4.4, 0.18, 0.25)), ((0.0, -0.001), (0.0, 0.4, -0.01, 0.01))],
)
def test_a_front_of_one_point_is_drawn_whole(point, interval, monkeypatch):
    (x, y), (x_low, x_high, y_low, y_high) = point, interval
    drawn = []
    monkeypatch.setattr(plots.fronts, "save", lambda figure, path: drawn.append(figure.axes[0]))
    search = ([x], [abs(y)])
    fresh = [[v] for v in (x, x_low, x_high, y, y_low, y_high)]
    plots.front({"pair": search}, search, fresh, "f.png", labels=("leak", "KL"))
    (axes,) = drawn
    assert axes.get_xlim()[0] <= x_low < x_high <= axes.get_xlim()[1]
    assert axes.get_ylim()[0] < y_low < y_high < axes.get_ylim()[1]
    assert sum(0 < tick <= axes.get_xlim()[1] for tick in axes.get_xticks()) >= 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda d: plots.image_grid(np.zeros((2, 8, 8, 1)), d / "x.png"), "[2, 8, 8, 1]"),
        (lambda d: plots.image_grid(np.zeros((2, 1, 8, 8, 1)), d / "x.png", ["a"]), "2 row labels"),
        (
            lambda d: plots.image_grid(np.zeros((1, 2, 8, 8, 1)), d / "x.png", column_labels=["a"]),
            "2 column labels, got 1",
        ),
        (lambda d: plots.image_grid(np.full((1, 1, 8, 8, 1), np.nan), d / "x.png"), "not finite"),
        (lambda d: plots.trade_off({}, d / "x.png"), "at least one"),
        (lambda d: plots.trade_off({"a": ([1], [1])}, d / "x.png"), "'a'"),
        (lambda d: plots.posterior_over_time({"a": np.zeros(3)}, d / "x.png"), "[3]"),
        (lambda d: plots.error_over_time({"a": [1, 2]}, d / "x.png", logsnr=[1]), "2 steps"),
        (lambda d: plots.error_over_time({"a": [1, 2]}, d / "x.nothing"), "suffix"),
    ],
)
def test_bad_input_is_named(tmp_path, call, words):
    with pytest.raises(InputError) as caught:
        call(tmp_path)
    assert words in str(caught.value)


def test_a_title_may_hold_whatever_a_class_is_called(tmp_path):
    named = {"title": 'without class 1, "$x^$"'}
    plots.image_grid(np.zeros((1, 1, 8, 8, 1)), tmp_path / "a.png", **named)
    plots.posterior_over_time({"a": np.full((2, 3), 0.5)}, tmp_path / "b.png", **named)
    plots.trade_off({"a": ([1.0], None, None, [0.1], None, None)}, tmp_path / "c.png", **named)


def test_pyplot_is_never_loaded():
    code = "import sys, dng_jax.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_responses_show_every_point_of_every_panel(monkeypatch, tmp_path):
    monkeypatch.setattr(sensitivity, "save", lambda figure, path: figure)
    x = np.array([1.0, 2.0])

    def curve(top):
        return (x, *[np.array([0.0, top])] * 3, *[np.array([-0.1, top])] * 3)

    panels = {"a": {"pair": curve(1.0)}, "b": {"pair": curve(7.0)}, "c": {"pair": curve(2.0)}}
    figure = plots.responses(panels, tmp_path / "r.png")
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert low <= 0
        assert high >= 7


def test_rows_of_responses_have_the_names_they_are_given(monkeypatch, tmp_path):
    monkeypatch.setattr(sensitivity, "save", lambda figure, path: figure)
    curve = tuple(np.arange(1.0, 4.0) for _ in range(7))
    panels = {"steps": {"pair": curve}}
    figure = plots.responses(panels, tmp_path / "r.png", y_labels=("leak", "error"))
    assert [axes.get_ylabel() for axes in figure.axes] == ["leak", "error"]


def test_the_axis_of_a_trade_off_reaches_every_point_and_its_bars(monkeypatch, tmp_path):
    monkeypatch.setattr(tradeoffs, "save", lambda figure, path: figure)
    x, y = np.array([0.0, 0.5]), np.array([-0.1, 0.2])
    curves = {"np": (x, x, x + 4, y, None, None)}
    reference = {"reference": ([9.0], None, None, [-0.3], [-0.4], [-0.2])}
    figure = plots.trade_off(curves, tmp_path / "t.png", references=reference)
    (axes,) = figure.axes
    assert axes.get_xlim() == pytest.approx((-0.15 * 0.5, 1.5 * 9))
    assert axes.get_xaxis().get_transform().linthresh == 0.5  # the smallest leak but 0
    assert axes.get_ylim()[0] <= -0.4
    assert (9.0, -0.3) in points_of(axes)  # where it is, not where it ought to be


def points_of(axes):
    return [(x, y) for line in axes.lines for x, y in zip(*line.get_data(), strict=True)]


def test_points_of_a_trade_off_carry_scale_bars_and_doubt(monkeypatch, tmp_path):
    monkeypatch.setattr(tradeoffs, "save", lambda figure, path: figure)
    x, y = np.array([1.0, 2.0]), np.array([0.4, 0.2])
    curves = {"np": (x, x / 2, 2 * x, y, y - 0.1, np.array([np.inf, 0.3]))}
    figure = plots.trade_off(
        curves, tmp_path / "t.png", scales={"np": ["0.3", "1"]}, sparse={"np": [True, False]}
    )
    (axes,), (legend,) = figure.axes, figure.legends
    assert [(t.get_text(), t.xy) for t in axes.texts] == [("0.3", (1.0, 0.4)), ("1", (2.0, 0.2))]
    said = legend.get_title().get_text()
    assert all(word in said for word in ("95% intervals", "guidance scale", "hollow", "arrow"))
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [line.get_xdata().tolist() for line in hollow] == [[1.0]]
    (arrow,) = (line for line in axes.lines if line.get_marker() == tradeoffs.CARETUP)
    assert arrow.get_xdata().tolist() == [1.0]
    assert 0.4 < arrow.get_ydata()[0] < axes.get_ylim()[1]


def test_many_curves_leave_the_axes_their_height_and_look_apart(monkeypatch, tmp_path):
    monkeypatch.setattr(tradeoffs, "save", lambda figure, path: figure)
    one = ([1.0, 2.0], None, None, [0.4, 0.2], None, None)
    heights, looks = [], set()
    for n in (2, 15):
        names = {f"dng:pair={i},calibration=bundled": one for i in range(n)}
        figure = plots.trade_off(names, tmp_path / "t.png")
        figure.draw_without_rendering()
        (axes,) = figure.axes
        heights.append(axes.get_window_extent().height)
        drawn = [line for line in axes.lines if line.get_linestyle() != "None"]
        looks = {(x.get_color(), x.get_marker(), x.get_linestyle()) for x in drawn}
    assert heights[1] > 0.8 * heights[0]
    assert len(looks) == 15


def test_trackers_that_agree_have_a_panel_each(monkeypatch, tmp_path):
    monkeypatch.setattr(over_time, "save", lambda figure, path: figure)
    p = RNG.uniform(size=(9, 30))
    figure = plots.posterior_over_time({"pair": p, "odds": p, "classes": p}, tmp_path / "p.png")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["pair", "odds", "classes"]
    assert [len(axes.collections) for axes in figure.axes] == [1, 1, 1]  # a band each
    (legend,) = figure.legends
    names = [t.get_text() for t in legend.get_texts()]
    assert names == ["10-90% of images", "single images", "median"]


def test_the_title_of_a_narrow_grid_is_folded_not_cut(monkeypatch, tmp_path):
    monkeypatch.setattr(grids, "save", lambda figure, path: figure)
    title = "digits without 0: noise that leads to 0 unguided, and other noise"
    figure = plots.image_grid(
        np.zeros((2, 4, 8, 8, 1)), tmp_path / "g.png", ["a", "b"], title=title
    )
    (text,) = figure.texts
    assert text.get_text().replace("\n", " ") == title
    figure.draw_without_rendering()
    assert text.get_window_extent().x1 <= figure.bbox.x1

"""Heads as Hopfield networks: keys from arrays and files, what they retrieve, and bad files."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from dng_jax.errors import InputError
from dng_jax.jobs import cli
from eval.hopfield import __main__ as job
from hopfield_jax import attention, equidistant, patterns, projections, theory

pytestmark = pytest.mark.usefixtures("quick_compilation")

T, D, H, DIM = 12, 10, 3, 4


def test_equidistant_keys_have_the_beta_eff_of_theory_and_retrieve_as_it_says():
    # K = 9 at N = 16: pattern minima below the centroid, which is still one itself
    N, K = 16, 9.0
    norm = math.sqrt(K * math.sqrt(24))
    keys = np.stack([patterns.equidistant(N, 24, norm * s, seed=1) for s in (1.0, 0.7)])
    np.testing.assert_allclose(attention.beta_eff(keys), [K, 0.49 * K], rtol=1e-12)
    np.testing.assert_allclose(attention.beta_eff(keys, 1.0)[0], K * math.sqrt(24), rtol=1e-12)
    cold, hot = attention.report(keys)
    assert (cold.phase, hot.phase) == ("patterns lowest", "centroid")
    assert cold.K_s == theory.spinodal(N).K
    # started at the keys: N pattern minima, with the exact participation
    (p1,) = equidistant.weight(N, [K])
    assert cold.participation == pytest.approx(1 / (p1**2 + (1 - p1) ** 2 / (N - 1)), rel=1e-6)
    assert (cold.starts, cold.minima, cold.unsettled) == (N, N, 0)
    assert (hot.minima, hot.unsettled) == (1, 0)
    assert hot.participation == pytest.approx(N, rel=1e-6)
    assert cold.norm_bias == hot.norm_bias == 0
    assert cold.exist == pytest.approx(theory.pattern_limits(K).exist)


def test_unit_variance_keys_have_the_root_of_the_dimension():
    keys = np.random.default_rng(0).normal(size=(2, 3000, 64))
    # tr Cov is 64 with a standard error of about sqrt(2 * 64 / 3000) = .2
    np.testing.assert_allclose(attention.beta_eff(keys), 8, rtol=0.015)


@pytest.mark.slow
def test_one_step_is_attention_and_queries_choose_what_is_found():
    rng = np.random.default_rng(1)
    keys = rng.normal(size=(1, 6, 8)) * 3
    r = attention.report(keys, keys[:, :2] + 1e-3)[0]
    s = (keys[0, :2] + 1e-3) @ keys[0].T / math.sqrt(8)
    p = np.exp(s) / np.exp(s).sum(axis=1, keepdims=True)
    assert r.starts == 2
    assert r.participation_step == pytest.approx(np.median(1 / (p**2).sum(axis=1)))
    assert r.minima == len({int(i) for i in p.argmax(axis=1)}) == 2
    # four query heads on two key heads; a limit on the starts
    keys = rng.normal(size=(2, 30, 8))
    grouped = attention.report(keys, rng.normal(size=(4, 30, 8)), starts=16)
    assert [r.starts for r in grouped] == [16, 16]


def test_what_does_not_settle_is_no_minimum():
    keys = patterns.equidistant(16, 16, math.sqrt(4 * 5.1), seed=0)[None]
    r = attention.report(keys, max_steps=3)[0]  # the ghost of the spinodal at 5.189
    assert (r.starts, r.unsettled, r.minima) == (16, 16, 0)
    assert math.isnan(r.participation)
    r = attention.report(keys)[0]
    assert (r.unsettled, r.minima) == (0, 1)


@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_ghosts_just_beyond_the_spinodal_are_no_minima(shift):
    # residual 1e-7 and rho(J) < 1 there, and only the centroid is a minimum; a common part of the
    # keys changes nothing
    N = 16
    K_s = theory.spinodal(N).K
    keys = patterns.equidistant(N, N, 1.0)
    moved = np.pad(keys, ((0, 0), (0, 1)), constant_values=shift)[None]
    r = attention.report(moved, scale=K_s * (1 - 1e-7), tolerance=1e-6)[0]
    assert (r.phase, r.minima, r.unsettled) == ("centroid", 1, 0)
    assert r.participation == pytest.approx(N, rel=1e-3)
    # steps that end within the ghosts leave all starts unsettled, and none a minimum
    r = attention.report(moved, scale=K_s * (1 - 1e-7), tolerance=1e-6, max_steps=50)[0]
    assert (r.minima, r.unsettled) == (0, N)
    # on the other side of the spinodal the minima are real, each counted once
    for tolerance in (1e-3, 1e-6):
        r = attention.report(moved, scale=K_s * (1 + 1e-4), tolerance=tolerance)[0]
        assert (r.minima, r.unsettled) == (N, 0)
    # beyond K = N the centroid is a saddle, which a start exactly there never leaves
    r = attention.report(moved, moved.mean(axis=1, keepdims=True), scale=20.0)[0]
    assert (r.starts, r.minima, r.unsettled) == (1, 0, 1)


@pytest.mark.slow
def test_long_keys_swallow_short_ones():
    keys = np.random.default_rng(2).normal(size=(20, 4))
    keys *= np.linspace(0.2, 3, 20)[:, None]
    r = attention.report(keys[None])[0]
    gone = np.mean([np.argmax(keys @ k) != i for i, k in enumerate(keys)])
    assert r.norm_bias == gone > 0.3
    doubled = attention.report(np.concatenate([keys, keys[:3]])[None])[0]
    assert (doubled.tokens, doubled.distinct_keys) == (23, 20)


@pytest.fixture
def layer():
    rng = np.random.default_rng(3)
    w = {n: rng.normal(size=(H * DIM, D)) for n in ("q", "k", "v")}
    b = {n: rng.normal(size=H * DIM) for n in ("q", "k", "v")}
    return rng.normal(size=(T, D)), w, b


def stored(tmp_path, **tensors):
    path = tmp_path / "layer.safetensors"
    save_file({k.replace("__", "."): np.ascontiguousarray(v) for k, v in tensors.items()}, path)
    return path


def test_projections_of_every_layout_agree(tmp_path, layer):
    x, w, b = layer
    path = stored(
        tmp_path,
        self__query__weight=w["q"],
        self__key__weight=w["k"],
        self__key__bias=b["k"],
        c_attn__weight=np.concatenate([w["q"], w["k"], w["v"]]).T,
        c_attn__bias=np.concatenate([b["q"], b["k"], b["v"]]),
        kernel=w["k"].T.reshape(D, H, DIM),
        kernel_bias=b["k"].reshape(H, DIM),
    )
    expected_k = np.stack([x @ w["k"][h * DIM : (h + 1) * DIM].T for h in range(H)])
    shift = b["k"].reshape(H, 1, DIM)
    keys, queries = projections.project(
        path, x, heads=H, key="self.key.weight", query="self.query.weight", key_bias="self.key.bias"
    )
    np.testing.assert_allclose(keys, expected_k + shift, rtol=1e-12)
    np.testing.assert_allclose(queries[1], x @ w["q"][DIM : 2 * DIM].T, rtol=1e-12)
    keys, queries = projections.project(
        path, x, heads=H, fused="c_attn.weight", fused_bias="c_attn.bias", layout="in_out"
    )
    np.testing.assert_allclose(keys, expected_k + shift, rtol=1e-12)
    np.testing.assert_allclose(queries[0], x @ w["q"][:DIM].T + b["q"][:DIM], rtol=1e-12)
    keys, queries = projections.project(
        path, x, heads=H, key="kernel", key_bias="kernel_bias", layout="in_out"
    )
    np.testing.assert_allclose(keys, expected_k + shift, rtol=1e-12)
    assert queries is None
    # fewer key heads: H_q = 4 of DIM / 2, one key head of it, as in multi-query attention
    half = DIM // 2
    path = stored(tmp_path, qkv=np.concatenate([w["q"][: 4 * half], w["k"][:half], w["v"][:half]]))
    keys, queries = projections.project(path, x, heads=4, kv_heads=1, fused="qkv")
    assert (keys.shape, queries.shape) == ((1, T, half), (4, T, half))
    np.testing.assert_allclose(keys[0], x @ w["k"][:half].T, rtol=1e-12)


def test_half_precision_is_read(tmp_path, layer):
    _, w, _ = layer
    for dtype in (np.float16, np.float32, ml_dtypes.bfloat16):
        path = stored(tmp_path, k=w["k"].astype(dtype))
        read = projections.read_tensor(path, "k")
        assert read.dtype == np.float64
        np.testing.assert_array_equal(read, w["k"].astype(dtype).astype(np.float64))


def test_files_without_the_named_tensors_are_told_apart(tmp_path, layer):
    x, w, b = layer
    bad = w["k"].copy()
    bad[2, 1] = np.nan
    path = stored(
        tmp_path,
        h__0__self__query__weight=w["q"],
        h__0__self__key__weight=w["k"],
        h__1__self__key__weight=bad,
        ids=np.arange(4),
        short=b["k"][:5],
        cube=np.zeros((2, 2, 2)),
    )

    def project(**options):
        return projections.project(path, x, **({"heads": H} | options))

    cases = [
        ({"key": "h.0.self.keys.weight"}, r"holds no tensor 'h.0.self.keys.weight': nearest of its"
                                          r" 6 names: 'h.0.self.key.weight'"),
        ({"key": "zzz"}, "holds no tensor 'zzz': nearest of its 6 names: 'cube'"),
        ({"key": "h.1.self.key.weight"}, r"must be finite: NaN or infinity at index \[2, 1\]"),
        ({"key": "ids"}, "is int64, not floating point"),
        ({"key": "short"}, r"has shape \[5\]: 2 dimensions needed"),
        ({"key": "cube"}, r"has shape \[2, 2, 2\]: 2 dimensions needed"),
        ({"key": "h.0.self.key.weight", "layout": "in_out"}, "projects 12 numbers .* has 10"),
        ({"key": "h.0.self.key.weight", "heads": 5}, "12 numbers per token, no multiple of 5"),
        ({"key": "h.0.self.key.weight", "key_bias": "short"}, "bias 'short' has 5 numbers"),
        ({"key": "h.0.self.key.weight", "kv_heads": 2}, "multiple of that of key heads"),
        ({"key": "h.0.self.key.weight", "layout": "linear"}, "unknown layout 'linear'"),
        ({}, "either the key projection or the fused one"),
        ({"fused": "cube", "query": "ids"}, "name only its own bias"),
    ]  # fmt: skip
    for options, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            project(**options)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="does not exist"):
        projections.read_tensor(tmp_path / "none.safetensors", "k")
    (tmp_path / "text.safetensors").write_text("no tensors here")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        projections.read_tensor(tmp_path / "text.safetensors", "k")


KEYS = np.random.default_rng(5).normal(size=(2, 5, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: attention.report(KEYS[0]), r"\[heads, tokens, d_head\], got \[5, 3\]"),
        (lambda: attention.report(KEYS[:, :1]), "at least 2 keys, got 1"),
        (lambda: attention.report(np.where(KEYS > 1, np.nan, KEYS)), "keys must be finite"),
        (lambda: attention.report(np.ones((2, 4, 3))), "all keys of head 0 are equal"),
        (lambda: attention.report(KEYS, KEYS[:, :, :2]), "have 3 dimensions .* queries 2"),
        (lambda: attention.report(KEYS, np.ones((3, 5, 3))), "3 heads of queries .* 2 heads"),
        (lambda: attention.report(KEYS, scale=0.0), "scale of attention .* got 0"),
        (lambda: attention.beta_eff(KEYS, -1.0), "scale of attention .* got -1"),
        (lambda: projections.check_inputs(KEYS), r"one sequence, \[T, D\], got \[2, 5, 3\]"),
    ],
)
def test_bad_arrays_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def run(tmp_path, *words):
    return job.main(["attention", *words, "--out", str(tmp_path / "run")])


@pytest.mark.slow
def test_the_job_on_its_own_tokens(tmp_path, capsys):
    results = run(tmp_path, "--tokens", "24", "--heads", "2")
    heads, folder = results["heads"], tmp_path / "run"
    names = {"run.json", "results.json", "tables.md", "heads.csv", "heads.png"}
    assert {p.name for p in folder.iterdir()} == {*names, ".lock"}
    stored = json.loads((folder / "results.json").read_text())
    assert [r["beta_eff"] for r in stored["heads"]] == [r["beta_eff"] for r in heads]
    rows = list(csv.DictReader((folder / "heads.csv").open()))
    assert [float(r["beta_eff"]) for r in rows] == [r["beta_eff"] for r in heads]
    said = capsys.readouterr()
    assert "a demonstration, nothing trained" in said.out
    assert "minima of single keys for N <= 158 and lowest ones for N <= 51" in said.err
    # standardised columns under independent weights: near sqrt(64), less the dead pixels' share
    assert all(4 < r["beta_eff"] < 8.5 for r in heads)
    assert all(1 <= r["participation_step"] <= 24 for r in heads)
    assert all(r["minima"] >= 1 for r in heads)


@pytest.mark.slow
def test_the_job_on_a_file(tmp_path, layer):
    x, w, _ = layer
    path = stored(tmp_path, a__key=w["k"], a__query=w["q"])
    inputs = tmp_path / "inputs.safetensors"
    save_file({"x": x}, inputs)
    words = ["--file", str(path), "--key", "a.key", "--query", "a.query", "--heads", "3"]
    words += ["--inputs", "x", "--inputs-file", str(inputs), "--tokens", "9"]
    expected = attention.report(
        *projections.project(path, x[:9], heads=3, key="a.key", query="a.query")
    )
    assert run(tmp_path, *words)["heads"] == [dataclasses.asdict(r) for r in expected]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tokens", "1"), "--tokens must be at least 2, got 1"),
        (("--tokens", "2000"), "has 1797 digits, got --tokens 2000"),
        (("--heads", "0"), "--heads must be at least 1, got 0"),
        (("--scale", "-1"), "scale of attention must be a finite number > 0, got -1"),
        (("--key", "k"), "--key names a tensor, but no --file"),
        (("--file", "f.safetensors", "--key", "k"), "--file needs --inputs"),
        (("--file", "f.safetensors", "--inputs", "x"), "--file needs --heads"),
        (("--file", "f.no", "--inputs", "x", "--heads", "2", "--key", "k"), "f.no does not exist"),
    ],
)
def test_bad_words_to_the_job_leave_nothing_behind(tmp_path, words, said):
    with pytest.raises(InputError, match=re.escape(said)):
        run(tmp_path, *words)
    assert not (tmp_path / "run").exists()


def test_exit_code_two_and_one_sentence(tmp_path, layer, capsys):
    path = stored(tmp_path, key=layer[1]["k"], x=layer[0])
    words = ["--file", str(path), "--key", "keys", "--inputs", "x", "--heads", "3"]
    words += ["--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as left:
        cli.main(lambda: job.main(["attention", *words]))
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "holds no tensor 'keys': nearest of its 2 names: 'key'" in said

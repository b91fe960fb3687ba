"""A whole transformer: what hooks catch, regimes, maps of heads, figure, job, bad folders."""

from __future__ import annotations

import csv
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from dng_jax.errors import InputError
from eval.hopfield import __main__ as job
from hopfield_jax import attention, encoders, theory
from hopfield_jax.analyses import heads
from hopfield_jax.attention import HeadReport
from hopfield_jax.plots import head_maps

pytestmark = pytest.mark.usefixtures("quick_compilation")

L, H, DIM = 2, 3, 4
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij"]
TEXT = "a b c d\ne f g h i j a\n\nb d f\n\n \n\na c e g i b d f\n"


def report(beta_eff, minima, participation, tokens=20, entropy=0.5):
    """A report of which only these fields matter."""
    values = dict.fromkeys((f for f in HeadReport.__dataclass_fields__), 0)
    values |= {"beta_eff": beta_eff, "minima": minima, "participation": participation}
    values |= {"entropy_step": entropy, "K_s": theory.spinodal(tokens).K, "exist": 2 * beta_eff}
    return HeadReport(**values)


def test_regimes_go_by_what_is_retrieved():
    cases = [(0, np.nan, "not settled"), (1, 1.0, "one attractor"), (1, 9.0, "one attractor")]
    cases += [(4, 2.0, "metastable"), (4, 1.99, "single keys")]
    for minima, participation, name in cases:
        assert heads.regime(report(3.0, minima, participation)) == name


def test_a_map_is_of_the_most_frequent_regime_and_of_medians():
    lone, several, single, none = (
        report(1.0, 1, 8.0, entropy=0.9),
        report(4.0, 3, 5.0, entropy=0.6),
        report(9.0, 7, 1.0, entropy=0.3),
        report(2.0, 0, np.nan),
    )
    found = heads.head_map(
        [[[lone, several, none]], [[lone, single, none]], [[single, lone, none]]]
    )
    assert found.regime.tolist() == [["one attractor", "single keys", "not settled"]]
    np.testing.assert_allclose(found.agreement, [[2 / 3, 1 / 3, 1]])  # the colder at a tie
    np.testing.assert_allclose(found.beta_eff, [[1, 4, 2]])
    np.testing.assert_allclose(found.entropy, [[0.7, 0.6, 0.5]])
    np.testing.assert_allclose(found.participation, [[8, 5, np.nan]])
    colder = found._replace(beta_eff=np.array([[6.0, 6.0, 5.0]]))  # K_s(20) = 5.5
    assert heads.foretold(colder) == (2, 1, 1, 0)


def test_the_rank_correlation_is_spearmans_with_an_interval_around():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(6, 12))
    b = -(a**3) + rng.normal(size=a.shape)
    found = heads.rank_correlation(a, b)
    assert found.value == pytest.approx(stats.spearmanr(a.ravel(), b.ravel()).statistic)
    assert -1 < found.low < found.value < found.high < 0
    # as wide as Fisher's interval (with the variance 1.06 of ranks)
    z = np.arctanh([found.low, found.high])
    assert z[1] - z[0] == pytest.approx(2 * 1.96 * np.sqrt(1.06 / 69), rel=0.35)


def test_the_figure_writes_values_and_letters(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(head_maps, "save", lambda figure, path: drawn.append(figure))
    beta_eff = np.array([[2.0, 31.4], [5.0, 9.96]])
    regime = np.array([["one attractor", "single keys"], ["metastable", "single keys"]])
    head_maps.head_maps(
        beta_eff, beta_eff / 40, regime, tmp_path / "a.png", (-0.5, -0.7, -0.2), marks={"K": 6.0}
    )
    cold, spread, against, *_ = drawn[0].axes
    assert [t.get_text() for t in cold.texts] == ["2.0", "31", "5.0", "10"]
    assert [t.get_text() for t in spread.texts] == ["1", "s", "m", "s"]
    points = {line.get_label(): line.get_xdata().tolist() for line in against.lines[:3]}
    assert points == {"1: one attractor": [2], "m: metastable": [5], "s: single keys": [31.4, 9.96]}
    assert "-0.50 [-0.70, -0.20]" in against.get_title(loc="left")


@pytest.fixture
def folder(tmp_path):
    """A small BERT with a tokenizer of ten letters, as transformers saves them."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=H * DIM, num_hidden_layers=L, num_attention_heads=H,
        intermediate_size=8, max_position_embeddings=16,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = transformers.BertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    model.save_pretrained(tmp_path / "bert")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    from tokenizers import BertWordPieceTokenizer

    words = BertWordPieceTokenizer(str(tmp_path / "vocab.txt"))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words._tokenizer, pad_token="[PAD]", unk_token="[UNK]",
        cls_token="[CLS]", sep_token="[SEP]", model_max_length=16,
    ).save_pretrained(tmp_path / "bert")  # fmt: skip
    return tmp_path / "bert"


@pytest.mark.slow
def test_hooks_catch_what_the_models_own_attention_is_made_of(folder):
    torch = pytest.importorskip("torch")
    encoder = encoders.load(folder)
    assert (encoder.layers, encoder.heads, encoder.head_dim, encoder.longest) == (L, H, DIM, 16)
    seen = encoder("a b c a j")
    assert seen.tokens == ["[CLS]", "a", "b", "c", "a", "j", "[SEP]"]
    assert seen.keys.shape == seen.queries.shape == (L, H, 7, DIM)
    assert not seen.cut
    encoder.model.set_attn_implementation("eager")
    numbers = torch.tensor([[WORDS.index(t) for t in seen.tokens]])
    with torch.no_grad():
        own = encoder.model(numbers, output_attentions=True).attentions
    logits = encoders.scale(encoder) * seen.queries @ seen.keys.transpose(0, 1, 3, 2)
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(p, np.concatenate([a.numpy() for a in own]), atol=1e-5)
    # hooks are gone, and catch each layer once more; the model's attention is now another function
    np.testing.assert_allclose(encoder("a b c a j").keys, seen.keys, atol=1e-5)
    short = encoder("a b c a j", 4)
    assert short.tokens == ["[CLS]", "a", "b", "[SEP]"]
    assert short.cut
    assert encoder("a " * 30).keys.shape[2] == 16


@pytest.mark.slow
def test_the_job_on_a_model(folder, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    words = ["attention", "--model", str(folder), "--text", str(text), "--sequences", "2"]
    results = job.main([*words, "--out", str(tmp_path / "run")])
    check_run(results, tmp_path / "run", encoders.load(folder), capsys.readouterr().err)


@pytest.mark.slow
def test_the_job_without_transformers(monkeypatch, tmp_path, capsys):
    rng = np.random.default_rng(0)
    drawn = {n: rng.normal(size=(2, L, H, n, DIM)) * np.array([0.3, 1, 4])[:, None, None]
             for n in (11, 8)}  # fmt: skip

    class Fake(SimpleNamespace):
        head_dim = DIM

        def __call__(self, text, tokens=None):
            # [CLS] and [SEP] are never written, only counted
            n = len(text.split())
            return encoders.Sequence(text.split(), *drawn[n], False)

    monkeypatch.setattr(encoders, "load", lambda folder: Fake())
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    words = ["attention", "--model", "m", "--text", str(text), "--sequences", "2"]
    results = job.main([*words, "--out", str(tmp_path / "run")])
    check_run(results, tmp_path / "run", Fake(), capsys.readouterr().err)


def check_run(results, folder, encoder, said):
    """The longest two paragraphs, each head as attention.report has it, and what is said."""
    names = {"run.json", "results.json", "tables.md", "heads.csv", "heads.png"}
    assert {p.name for p in folder.iterdir()} == {*names, ".lock"}
    rows = list(csv.DictReader((folder / "heads.csv").open()))
    assert len(rows) == 2 * L * H
    seen = encoder("a b c d e f g h i j a")
    expected = attention.report(seen.keys[1], seen.queries[1], encoders.scale(encoder))
    first = [r for r in rows if (r["sequence"], r["layer"]) == ("0", "1")]
    assert [float(r["beta_eff"]) for r in first] == [r.beta_eff for r in expected]
    assert [float(r["entropy_step"]) for r in first] == [r.entropy_step for r in expected]
    median = np.median(
        [[float(r["beta_eff"]) for r in rows if r["sequence"] == s] for s in "01"], 0
    )
    stored = json.loads((folder / "results.json").read_text())
    np.testing.assert_allclose(np.ravel(stored["heads"]["beta_eff"]), median)
    assert stored["tokens"] == results["tokens"]
    assert "Spearman's rank correlation" in said
    assert "heads of beta_eff above K_s" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--text", "t"), "--text is what a --model reads"),
        (("--sequences", "3"), "--sequences is what a --model reads"),
        (("--model", "m"), "--model needs --text"),
        (("--model", "m", "--text", "t", "--heads", "3"), "--heads belongs to one layer"),
        (("--model", "m", "--text", "t", "--scale", "3"), "--scale belongs to one layer"),
        (("--model", "m", "--text", "gone.txt"), "--text gone.txt cannot be read: No such file"),
        (("--model", "m", "--text", "t", "--sequences", "0"), "--sequences must be at least 1"),
    ],
)
def test_bad_words_leave_nothing_behind(tmp_path, words, said):
    with pytest.raises(InputError, match=re.escape(said)):
        job.main(["attention", *words, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_texts_without_text_are_named(tmp_path):
    for content, said in ((b" \n\n ", "holds no text"), (b"\xff\xfe", "is not UTF-8")):
        (tmp_path / "text.txt").write_bytes(content)
        words = ["--model", "m", "--text", str(tmp_path / "text.txt")]
        with pytest.raises(InputError, match=said):
            job.main(["attention", *words, "--out", str(tmp_path / "run")])


def test_folders_that_hold_no_encoder_are_named(monkeypatch, tmp_path):
    config = SimpleNamespace(model_type="llama")
    library = SimpleNamespace(
        AutoConfig=SimpleNamespace(from_pretrained=lambda *a, **k: config),
        AutoModel=SimpleNamespace(from_pretrained=lambda *a, **k: 1 / 0),
    )
    monkeypatch.setattr(encoders.importlib, "import_module", lambda name: library)
    with pytest.raises(InputError, match=r"holds no config\.json"):
        encoders.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"of type llama, .* name one of type bert, roberta"):
        encoders.load(tmp_path)
    config.model_type, config.is_decoder = "bert", True
    with pytest.raises(InputError, match="a decoder, whose causal mask"):
        encoders.load(tmp_path)
    config.is_decoder, config.position_embedding_type = False, "relative_key"
    with pytest.raises(InputError, match="positions of type relative_key"):
        encoders.load(tmp_path)
    config.position_embedding_type = "absolute"
    with pytest.raises(InputError, match=r"no whole transformer \(ZeroDivisionError"):
        encoders.load(tmp_path)

    def missing(name):
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(encoders.importlib, "import_module", missing)
    with pytest.raises(
        InputError, match=r"optional extra 'transformers' \(No module named 'torch'"
    ):
        encoders.load(tmp_path)

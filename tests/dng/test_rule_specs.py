"""Rules in words: read back as written, refused with the place of a fault, built for a problem."""

from __future__ import annotations

import re
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dng_jax import InputError, guidance
from dng_jax.experiments import own_rules, problems, rule_builders, rule_specs
from dng_jax.experiments.generating import Draw, generate
from dng_jax.experiments.rule_specs import RULES, SETTINGS, Spec, TrackerOptions, parse
from dng_jax.experiments.source import Source

pytestmark = pytest.mark.usefixtures("quick_compilation")


def numbers_in(range_):
    if range_.whole:
        return st.integers(int(range_.low), int(range_.high)).map(float)
    low = None if range_.low == -np.inf else range_.low
    high = None if range_.high == np.inf else range_.high
    ends = {"exclude_min": range_.open, "exclude_max": range_.open}
    return st.floats(
        low, high, allow_nan=False, allow_infinity=False, **(ends if low is not None else {})
    )


@st.composite
def specs(draw):
    name = draw(st.sampled_from([*RULES, "my.rules:soft"]))
    kind = RULES.get(name, rule_specs.OWN)
    tracker = draw(st.sampled_from(rule_specs.TRACKERS)) if kind.tracked else None
    if name == "reject" and tracker == "classes-model":
        tracker = "classes"
    scale = None if kind.scale is None else draw(numbers_in(kind.scales))
    settings_ = {}
    for setting in draw(st.sets(st.sampled_from(kind.settings))) if kind.settings else ():
        known = SETTINGS.get(setting)
        word = st.sampled_from(("bundled", "none", "a-b.json", "runs/x=1.json"))
        settings_[setting] = draw(word if known is None else numbers_in(known))
    if "tau" in settings_ and settings_.get("calibration", "none") != "none":
        del settings_["tau"]
    order = (*SETTINGS, rule_specs.CALIBRATION)
    interval = None
    if name not in rule_specs.UNLIMITED and draw(st.booleans()):
        low, high = sorted(draw(st.lists(st.floats(0, 1e6), min_size=2, max_size=2, unique=True)))
        interval = (low + 0.0, draw(st.sampled_from((high, np.inf))))
    pairs = tuple(sorted(settings_.items(), key=lambda item: order.index(item[0])))
    return Spec(name, tracker, scale, pairs, interval)


IGNORED = [
    (("np=.3",), "/nonexistent.json", {}, "no rule of --rules takes --calibration"),
    (("dng:exact", "reject:pair,tau=.5"), "c.json", {}, "no rule of --rules takes --calibration"),
    (("dng:pair,calibration=none",), "bundled", {}, "no rule of --rules takes --calibration"),
    (("np", "dng:pair,tau=.5"), None, {"tau": 2.0}, "no rule of --rules takes --tau"),
    (("dng:exact",), None, {"delta": 0.1}, "no rule of --rules takes --delta"),
    (("feedback",), None, {"drift": 0.1}, "no rule of --rules takes --drift"),
    (("unguided",), None, {"prior": 0.1}, "no rule of --rules takes --prior"),
    (("dng:exact", "np"), None, {"probes": 1}, "no rule of --rules takes --probes"),
    (("dng:pair",), "a,b.json", {}, "'a,b.json' has no place in a rule: rename the file"),
    (("dng:pair",), "a(1).json", {}, "'a(1).json' has no place in a rule: rename the file"),
]


@pytest.mark.parametrize(("words", "calibration", "numbers", "said"), IGNORED)
def test_what_no_rule_would_take_is_refused(words, calibration, numbers, said):
    rules = [parse(word) for word in words]
    with pytest.raises(InputError, match=re.escape(said)):
        rule_specs.check_taken(rules, "--rules", calibration, TrackerOptions(**numbers))
    taking = [*rules, parse("dng:pair")]
    name = calibration and "c.json"
    rule_specs.check_taken(taking, "--rules", name, TrackerOptions(**numbers))


def test_a_tracker_that_no_rule_takes_is_refused():
    for words in (("np",), ("dng:pair", "reject:odds", "unguided")):
        with pytest.raises(InputError, match="no rule takes --tracker classes"):
            rule_specs.parse_all(words, "classes")
        assert rule_specs.parse_all(words, None) == [parse(word) for word in words]
    assert rule_specs.parse_all(("np", "dng"), "odds") == [parse("np"), parse("dng:odds")]


def test_probes_reach_feedback_however_it_is_set(digits):
    for word in ("feedback", "feedback=.9,t0=.6,t1=.4"):
        rule_specs.check_taken([parse(word)], "--rules", None, TrackerOptions(probes=2))
        assert built(digits, word, probes=2).probes == 2


@settings(max_examples=300, deadline=None)
@given(spec=specs(), scale=st.floats(1, 50))
def test_a_rule_is_read_back_as_it_is_written(spec, scale):
    assert parse(str(spec)) == spec
    assert parse(str(spec), "odds") == spec  # a tracker that is written is not that of the option
    assert not re.search(r"[\s;&|<>$`\"'\\*?~#!{}\[\]]", str(spec))  # nothing a shell would take
    if spec.scale is not None and rule_specs.RULES.get(spec.name, rule_specs.OWN).scales.holds(
        scale
    ):
        assert parse(spec.family).with_scale(scale) == spec.with_scale(scale)


@settings(max_examples=300, deadline=None)
@given(text=st.text("dngpairejct:=,.()0123456789-+ae interval", max_size=30))
def test_any_text_is_read_or_refused_in_one_sentence(text):
    said = None
    try:
        assert parse(str(parse(text))) == parse(text)
    except InputError as error:
        said = str(error)
    assert said is None or re.fullmatch(r"rule '.*', character \d+: .+", said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dng:pair=5,tua=.2", "character 12: unknown setting of dng 'tua': did you mean 'tau'?"),
        ("dng:pear", "character 5: unknown tracker 'pear': did you mean 'pair'?"),
        ("sld=.3,tau=2", "character 8: sld takes no settings"),
        ("np=.3,tau=2", "unknown setting of np 'tau': choose from every"),
        ("np:pair", "character 1: np takes no tracker"),
        ("dng=1,drift=2", "character 13: drift must be between 0 and 1"),
        ("dng,prior=0", "character 11: prior must be strictly between 0 and 1"),
        ("dng,tau", "character 9: '' is not a number"),
        ("dng,tau=.1,tau=.2", "character 12: tau is given twice"),
        ("dng=1_0", "character 5: '1_0' is not a number"),
        ("reject:pair=.5", "character 13: the scale must be between 1 and 100"),
        ("reject:classes-model", "character 1: reject never guides"),
        ("feedback=1", "character 10: the scale must be strictly between 0 and 1"),
        ("dng,tau=.1,calibration=bundled", "tau and calibration both set the temperature"),
        ("dng,calibration=", "character 17: calibration takes a file's name, 'bundled', or 'none'"),
        ("interval(1,2,dng", "the interval is not closed"),
        ("interval(1,dng)", "an interval needs two levels and a rule"),
        ("interval(2,1,dng)", "character 10: need 0 <= LO < HI, got 2 and 1"),
        ("interval(1,2,unguided)", "character 14: unguided guides nothing"),
        ("interval(1,2,dgn)", "character 14: unknown rule 'dgn': did you mean 'dng'?"),
        ("my rules:soft", "character 1: 'my rules:soft' is no rule, nor MODULE:FACTORY"),
    ],
)
def test_a_fault_is_named_with_its_place(text, said):
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        parse(text)
    assert str(caught.value).startswith(f"rule '{text}', character ")


@pytest.fixture(scope="module")
def digits():
    return problems.make("digits", ("0", "7"), Source("exact"))


def built(problem, text, **options):
    return rule_builders.build(parse(text), problem, TrackerOptions(**options), "ddpm", 8)


def test_settings_of_a_rule_go_before_those_of_the_job(digits):
    rule = built(digits, "dng:pair=5,tau=.2,drift=.5,prior=.01", tau=3.0, delta=0.25)
    tracker = rule.tracker
    assert float(rule.guidance_scale) == 5
    assert float(tracker.temperature.values[0]) == pytest.approx(0.2)
    assert (float(tracker.drift), float(tracker.delta)) == (0.5, 0.25)
    np.testing.assert_allclose(np.exp(tracker.initial), 0.01, rtol=1e-5)


def test_skip_and_every_reach_the_rule_and_leave_the_tracker_alone(digits):
    rule = built(digits, "dng:odds=5,skip=.25,every=3,prior=.01")
    assert (float(rule.skip_below), float(rule.every)) == (0.25, 3)
    assert rule.on_demand == digits.negatives
    assert jax.tree.all(
        jax.tree.map(np.array_equal, rule.tracker, built(digits, "dng:odds,prior=.01").tracker)
    )
    for words, said in (
        ("dng:pair,every=3", "every belongs to skip, give both"),
        ("dng,skip=.2", "needs the tracker pair or odds"),
        ("dng:pair,skip=.2,every=2.5", "every must be a whole number between 1 and 1000"),
    ):
        with pytest.raises(InputError, match=said):
            built(digits, words)
    skip = parse("interval(.1,5,dng:pair,skip=.2)")
    with pytest.raises(InputError, match=r"dng:pair=1,skip=0.2\): .* an ancestral table"):
        rule_builders.build(skip, digits, TrackerOptions(), "ddim", 8)


def test_np_may_ask_at_one_step_in_so_many(digits):
    rule = built(digits, "np=2.4,every=8")
    assert (float(rule.every), float(rule.rule.guidance_scale)) == (8, pytest.approx(2.4))
    with pytest.raises(InputError, match="character 10: every must be a whole number between"):
        built(digits, "np,every=2.5")


def test_cfg_feedback_and_intervals_are_the_rules_of_the_library(digits):
    np.testing.assert_equal(built(digits, "cfg=-2"), guidance.classifier_free(-2))
    table = digits.table("ddpm", 8)
    same = guidance.feedback_from_times(table, 0.5, 0.25, pi=0.8)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, built(digits, "feedback=.8,t0=.5,t1=.25"), same)
    )
    plain = guidance.feedback(0.8, temperature=0.5, offset=0.1)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, built(digits, "feedback=.8,tau=.5,offset=.1"), plain)
    )
    limited = guidance.interval(guidance.classifier_free(2), sigma_min=0.1, sigma_max=5)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, built(digits, "interval(.1,5,cfg=2)"), limited)
    )
    with pytest.raises(InputError, match="give both t0 and t1"):
        built(digits, "feedback,t0=.5,tau=1")


def test_guided_classes_are_the_allowed_ones_in_turn(digits):
    found = generate(digits, digits.table("ddpm", 8), built(digits, "cfg=1"), Draw(16, 0))
    assert np.mean(found.labels[0].reshape(2, 8) == [1, 2, 3, 4, 5, 6, 8, 9]) > 0.8


def test_rules_that_need_classes_say_so():
    with pytest.raises(InputError, match="tracker 'exact' needs --denoiser exact"):
        built(problems.make("digits", ("0",)), "reject:exact=2")


MODULE = """\
import dng_jax
from dng_jax import guidance
lost = 3
def soft(scale, negatives):
    assert negatives == ("negative:0", "negative:1")
    return guidance.negative_prompt(scale, negatives=negatives)
def plain(scale):
    return guidance.classifier_free(scale, positive="negative:1")
def number(scale):
    return scale
def two(a, b):
    return a
def unknown(scale):
    return guidance.classifier_free(scale, positive="cat")
class Bare:
    roles = ("base",)
    def init_state(self, x): return ()
    def apply(self, state, step): return 0 * step.x, state, {}
    def update(self, state, step, move): return state
def bare(scale):
    return Bare()
@dng_jax.pytree
class Worded(dng_jax.Stateless):
    kind: str
    roles = ("base",)
    def apply(self, state, step): return 0 * step.x, state, {}
def worded(scale):
    return Worded("base")
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_own_rules.py").write_text(MODULE)
    (tmp_path / "my_broken_rules.py").write_text("import no_such_package_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("my_own_rules", None)


def test_a_rule_of_ones_own_is_called_with_its_scale_and_the_negatives(digits, module):
    rule = built(digits, "my_own_rules:soft=2")
    same = guidance.negative_prompt(2.0, negatives=digits.negatives)
    assert jax.tree.structure(rule) == jax.tree.structure(same)
    assert float(built(digits, "my_own_rules:plain").guidance_scale) == 1.0
    found = generate(digits, digits.table("ddpm", 4), [rule], Draw(4, 0))
    assert found.labels.shape == (1, 4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_own_rules:sofd", "unknown rule of my_own_rules 'sofd': did you mean 'soft'?"),
        ("my_own_rules:lost", "my_own_rules:lost is int, not a factory"),
        ("my_own_rules:number", "returned float, which is no rule: it needs roles"),
        ("my_own_rules:two", "failed: TypeError: two() missing 1 required positional argument"),
        ("my_own_rules:bare", "returned Bare, which is no pytree"),
        ("my_own_rules:worded", "'base' among its numbers: mark such a field with dng_jax.static"),
        ("my_own_rules:unknown", "asks for the role 'cat', which no network answers"),
        ("no_such_module_here:f", "no module no_such_module_here in this folder or installed"),
        ("my_broken_rules:f", "my_broken_rules cannot be imported: ModuleNotFoundError"),
    ],
)
def test_what_is_no_rule_of_ones_own_is_one_sentence(digits, module, name, said):
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        built(digits, name)
    assert "\n" not in str(caught.value)


def test_own_rules_are_found_from_any_folder(module):
    assert own_rules.find("my_own_rules:plain").__name__ == "plain"


@pytest.mark.parametrize("char", ["\n", "\r", "\x1b", "\0", "\udcff", "\u2028"])
def test_a_refusal_is_one_line_that_can_be_printed_whatever_the_rule_holds(char):
    with pytest.raises(InputError, match="unknown rule") as caught:
        rule_specs.parse(f"np{char}=1")
    assert str(caught.value).isprintable()

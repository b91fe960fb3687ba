"""Trainings as members of one: the curves of single runs, halving, kills, spaces in words."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dng_jax import data, nets, schedules, training
from dng_jax.errors import InputError
from dng_jax.sampling import root_key
from dng_jax.training import members, optimiser, presets, yardsticks
from dng_jax.tuning import blocks, numbers
from train import steps

STEPS, EVERY = 8, 2
ROWS = [
    {"learning_rate": 1e-2, "warmup": 4, "weight_decay": 0.1, "clip": 0.5, "ema_decay": 0.6,
     "smoothing": 0.2},
    {"learning_rate": 3e-3, "warmup": 0, "weight_decay": 0.0, "clip": 9.0, "ema_decay": 0.0,
     "smoothing": 0.0},
    {"learning_rate": 2e-2, "warmup": 9, "weight_decay": 1e-3, "clip": 0.1, "ema_decay": 0.9,
     "smoothing": 0.05},
]  # fmt: skip


@pytest.fixture(scope="module")
def setting(quick_compilation):
    """A small classifier job, its module, the digits it trains on, and those held out."""
    network = nets.ClassifierConfig((8, 8, 1), widths=(4,), features=8)
    job = dataclasses.replace(
        presets.classifier("digits"), network=network, steps=STEPS, batch_size=32, warp=False
    )
    images, labels, _ = data.load("digits", "train")
    arrays = jnp.asarray(images), jnp.asarray(labels)
    module = nets.Classifier(network)
    state = training.init_state(module, steps.optimiser_of(job), root_key(0))

    def build(values):
        return steps.of_classifier(dataclasses.replace(job, **values), module)

    made = {engine: members.make_step(build, engine) for engine in members.ENGINES}
    trained, held = (tuple(a[rows] for a in arrays) for rows in (slice(300, None), slice(300)))
    return job, module, state, build, made, trained, held


def curves(step, state, arrays, count=STEPS):
    """Losses [N] of single steps, and the state after them."""
    losses = []
    for _ in range(count):
        state, metrics = step(state, *arrays)
        losses.append(float(metrics["loss"]))
    return np.array(losses), state


def close(a, b, rtol):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("warmup", [0, 3, 10, 99])
def test_rate_rises_and_falls_as_optax_has_it(warmup):
    steps_ = 20
    known = optax.warmup_cosine_decay_schedule(0.0, 2e-3, min(warmup, steps_ // 2), steps_)
    n = np.arange(steps_ + 1)
    for peak, up in ((2e-3, warmup), (jnp.float32(2e-3), jnp.float32(warmup))):
        rate = optimiser.rate_of(steps_, peak, up)
        np.testing.assert_allclose(
            [float(rate(jnp.int32(k))) for k in n], [float(known(k)) for k in n], atol=3e-10
        )


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_members_have_the_curves_of_single_runs(count, setting):
    rows = ROWS[:count]
    job, module, state, _, made, arrays, _ = setting
    # As train.classifier builds it, its numbers constants of the program.
    single = []
    for row in rows:
        step = steps.of_classifier(dataclasses.replace(job, **row), module)
        single.append(curves(step, state, arrays))
    apart = np.ptp([losses for losses, _ in single], axis=0)
    assert apart[-1] > 0.05  # these members do differ
    for engine in members.ENGINES:
        start = members.population(state, count)
        given = (made[engine], engine, members.stacked(rows), start, arrays, STEPS, 1)
        after, metrics = members.train(*given)
        np.testing.assert_allclose(metrics["loss"], [losses for losses, _ in single], rtol=2e-4)
        for k, (_, one) in enumerate(single):
            mine = members.member(after, k)
            assert int(mine.step) == STEPS
            close((mine.params, mine.ema), (one.params, one.ema), 2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("conditioning", ["heads", "label"])
def test_members_of_diffusion_have_the_curves_of_single_runs(conditioning):
    network = nets.UNetConfig(
        (8, 8, 1), 10, conditioning, "v", channels=8, multipliers=(1,), blocks=0, middle_blocks=1,
        patch=2, head_channels=8, embed_channels=16, resample="shuffle", scale_shift=True,
        dropout=0.1,
    )  # fmt: skip
    job = dataclasses.replace(
        presets.diffusion("digits"), network=network, steps=STEPS, batch_size=32
    )
    images, labels, _ = data.load("digits", "train")
    arrays, module = (jnp.asarray(images), jnp.asarray(labels)), nets.UNet(network)
    state = training.init_state(module, steps.optimiser_of(job), root_key(0))
    extra = {
        "heads": ("unconditional_weight", (0.1, 0.5, 2.0)),
        "label": ("label_dropout", (0, 0.5, 0.9)),
    }[conditioning]
    rows = [
        {"learning_rate": rate, "focus": focus, extra[0]: value}
        for rate, focus, value in zip((1e-2, 1e-3, 3e-3), (0.0, 0.3, 0.5), extra[1], strict=True)
    ]

    def build(values):
        return steps.of_diffusion(dataclasses.replace(job, **values), module, labels)

    single = [curves(build(row), state, arrays) for row in rows]
    yardstick = yardsticks.of_diffusion(module, schedules.linear())
    key, judged = jax.random.key(3), []
    for engine in members.ENGINES:
        step, start = members.make_step(build, engine), members.population(state, 3)
        given = (step, engine, members.stacked(rows), start, arrays, STEPS, 1)
        after, metrics = members.train(*given)
        np.testing.assert_allclose(metrics["loss"], [losses for losses, _ in single], rtol=2e-3)
        held = (arrays[0][:260], arrays[1][:260])
        judged.append(members.judged(yardstick, engine, after, *held, key))
    np.testing.assert_allclose(judged[0]["loss"], judged[1]["loss"], rtol=2e-3)
    parts = judged[1]
    whole = parts["loss_class"] + 0.5 * parts["loss_unconditional"]
    np.testing.assert_allclose(parts["loss"], whole, rtol=1e-5)


def test_the_yardstick_of_a_classifier_is_its_mean_over_all_held_out_images(setting):
    _, module, state, _, _, _, held = setting
    yardstick = yardsticks.of_classifier(module)
    both = members.population(state, 2)
    found = members.judged(yardstick, "vmap", both, *held, jax.random.key(0))
    logits = np.asarray(module.apply({"params": state.params}, data.to_unit(held[0])), np.float64)
    labels = np.asarray(held[1])
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(found["loss"], -logs[np.arange(300), labels].mean(), rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"], np.mean(logits.argmax(1) == labels))


RATES = [1e-4, 1e-2, 3e-2, 3e-4]


def trainings(setting, folder, engine="vmap", rungs=(4, STEPS), objective="loss", **more):
    _, module, state, build, made, arrays, held = setting
    yardstick = yardsticks.of_classifier(module)
    given = (state, arrays, held, yardstick, jax.random.key(1), rungs, 2, EVERY, objective, folder)
    return blocks.Trainings(build, engine, *given, step=made[engine], **more)


def members_of(rates):
    return [numbers.Numbers((("learning_rate", rate),)) for rate in rates]


def test_halving_drops_the_worst_and_the_rest_train_as_without_it(setting, tmp_path):
    settings = members_of(RATES)
    halved = trainings(setting, tmp_path / "a")(settings)
    whole = trainings(setting, tmp_path / "b", rungs=(STEPS,))(settings)
    assert [one["steps"] for one in halved] == [4, 8, 8, 4]
    assert [len(one["curve"]) for one in halved] == [2, 4, 4, 2]
    for k in (1, 2):
        np.testing.assert_allclose(halved[k]["curve"], whole[k]["curve"], rtol=1e-3)
        assert halved[k]["loss"] == pytest.approx(whole[k]["loss"], rel=1e-3)
        assert halved[k]["rungs"][-1] == [STEPS, halved[k]["loss"]]


class Killed(Exception):
    pass


def killed_after(calls):
    """An advance that kills the search at one of its calls."""
    taken = []

    def advance(n):
        taken.append(n)
        if len(taken) == calls:
            raise Killed

    return advance


@pytest.fixture(scope="module")
def straight(setting, tmp_path_factory):
    """What the members of RATES come to where nobody is killed, by engine."""
    return {
        engine: trainings(setting, tmp_path_factory.mktemp(engine), engine)(members_of(RATES))
        for engine in members.ENGINES
    }


def killed(setting, folder, calls, *more, **and_more):
    with pytest.raises(Killed):
        trainings(setting, folder, *more, advance=killed_after(calls), **and_more)(
            members_of(RATES)
        )


def counted(setting, folder, settings, *more, **and_more):
    """What a search comes to, and how many steps it took."""
    taken = []
    found = trainings(setting, folder, *more, advance=taken.append, **and_more)(settings)
    return found, len(taken)


@pytest.mark.parametrize(
    ("engine", "calls", "left"),
    [
        ("vmap", 6, 4),  # killed in the second rung, of 4 steps
        ("single", 4 * 4 + 2, 2 * 4),
        ("single", 4 + 2, 3 * 4 + 2 * 4),  # in the second member of the first
    ],
)
def test_a_search_killed_between_rungs_goes_on_to_the_same(
    engine, calls, left, setting, straight, tmp_path
):
    killed(setting, tmp_path, calls, engine)
    assert counted(setting, tmp_path, members_of(RATES), engine) == (straight[engine], left)
    # Killed while it was telling: what is asked again is known, whatever comes with it.
    few = members_of([RATES[2], RATES[3], RATES[0]])
    known = [straight[engine][k] for k in (2, 3, 0)]
    assert counted(setting, tmp_path, few, engine) == (known, 0)


@pytest.mark.parametrize(("engine", "left"), [("vmap", 2 + 4), ("single", 2 + 2 * 4 + 2 * 4)])
def test_a_member_killed_on_its_way_goes_on_from_its_last_save(
    engine, left, setting, straight, tmp_path
):
    calls = {"vmap": 3, "single": 4 + 3}[engine]
    killed(setting, tmp_path, calls, engine, save_every=2)
    assert counted(setting, tmp_path, members_of(RATES), engine) == (straight[engine], left)


@pytest.mark.parametrize("engine", members.ENGINES)
def test_blocks_that_are_cut_anew_go_on_with_what_each_member_has(
    engine, setting, straight, tmp_path
):
    """Killed in the second rung, which the second and third reached; then asked two by two."""
    killed(setting, tmp_path, {"vmap": 6, "single": 4 * 4 + 2}[engine], engine)
    settings, whole = members_of(RATES), straight[engine]
    # The first and last ended at the first rung: they stay so, and train no more.
    (first, second), steps = counted(setting, tmp_path, settings[:2], engine)
    assert (first, steps) == (whole[0], 4)
    assert second["loss"] == pytest.approx(whole[1]["loss"], rel=1e-4)
    (third, last), steps = counted(setting, tmp_path, settings[2:], engine)
    assert (last, steps) == (whole[3], 4)
    assert third["curve"] == pytest.approx(whole[2]["curve"], rel=1e-4)
    # With one that is new, of the same block.
    more = members_of([*RATES, 5e-3])
    found, steps = counted(setting, tmp_path, more, engine)
    assert found[:4] == [first, second, third, last]
    assert steps == 4 + 4


@pytest.mark.parametrize("engine", members.ENGINES)
def test_members_at_different_steps_go_on_together(engine, setting, straight, tmp_path):
    """The first was asked before, and saved at step 2."""
    settings = members_of(RATES)
    with pytest.raises(Killed):
        trainings(setting, tmp_path, engine, save_every=2, advance=killed_after(3))(settings[:1])
    found, _ = counted(setting, tmp_path, settings, engine)
    for mine, theirs in zip(found, straight[engine], strict=True):
        assert mine["steps"] == theirs["steps"]
        assert mine["curve"] == pytest.approx(theirs["curve"], rel=1e-4)


@pytest.mark.parametrize("kept", [0, 1, 30, 0.5, -1], ids=str)
def test_a_file_of_a_member_that_is_cut_is_begun_anew(kept, setting, straight, tmp_path):
    killed(setting, tmp_path, 6)
    path = trainings(setting, tmp_path)._member(members_of(RATES)[1]).path
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else kept])
    found, steps = counted(setting, tmp_path, members_of(RATES))
    # It takes the first rung again, and the second, with the other that reached it after that.
    assert steps == 4 + 4
    for mine, theirs in zip(found, straight["vmap"], strict=True):
        assert mine["steps"] == theirs["steps"]
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_a_file_with_a_damaged_state_is_begun_anew_where_it_is_needed(setting, straight, tmp_path):
    killed(setting, tmp_path, 6)
    path = trainings(setting, tmp_path)._member(members_of(RATES)[1]).path
    with np.load(path) as file:
        held = dict(file)
    np.savez(path, **{name: held[name] for name in list(held)[:-1]})  # a leaf is missing
    found, _ = counted(setting, tmp_path, members_of(RATES))
    assert found[1]["loss"] == pytest.approx(straight["vmap"][1]["loss"], rel=1e-4)


def test_what_has_ended_is_known_without_its_state(setting, tmp_path, monkeypatch):
    killed(setting, tmp_path, 6)
    read, real = [], blocks.np.lib.npyio.NpzFile.__getitem__

    def counting(self, name):
        read.append(name)
        return real(self, name)

    monkeypatch.setattr(blocks.np.lib.npyio.NpzFile, "__getitem__", counting)
    again = trainings(setting, tmp_path)
    assert [again._member(one).ended for one in members_of(RATES)] == [True, False, False, True]
    assert set(read) == {"facts"}


def test_a_full_disk_stops_a_block_in_a_sentence_and_loses_nothing(
    setting, straight, tmp_path, monkeypatch
):
    real, written = np.savez, []

    def full(part, **named):
        if len(written) == 4 + 2 + 1:  # the first rung, those it stops, one of the second
            raise OSError(28, "No space left on device")
        written.append(part)
        real(part, **named)

    monkeypatch.setattr(np, "savez", full)
    said = r"cannot write .*\.npz \(no space left on device\): make room, then go on with --resume"
    with pytest.raises(InputError, match=said):
        trainings(setting, tmp_path)(members_of(RATES))
    assert not list(tmp_path.glob(".*"))
    monkeypatch.setattr(np, "savez", real)
    found, steps = counted(setting, tmp_path, members_of(RATES))
    assert steps == 4
    for mine, theirs in zip(found, straight["vmap"], strict=True):
        assert mine["steps"] == theirs["steps"]
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_marking_what_a_rung_stops_may_be_cut_short(setting, tmp_path, monkeypatch):
    """Of five the first rung stops two; killed when it had marked one of them: of the other four
    alone two would go on."""
    settings = members_of([*RATES, 5e-3])
    straight = trainings(setting, tmp_path / "a", "single")(settings)
    real = blocks.Trainings._write

    def write(self, member, state=None):
        real(self, member, state)
        if member.ended:
            raise Killed

    monkeypatch.setattr(blocks.Trainings, "_write", write)
    with pytest.raises(Killed):
        trainings(setting, tmp_path / "b", "single")(settings)
    monkeypatch.setattr(blocks.Trainings, "_write", real)
    assert [one["steps"] for one in straight].count(STEPS) == 3
    assert counted(setting, tmp_path / "b", settings, "single") == (straight, 3 * 4)


def test_a_member_that_diverges_fails_alone(setting, tmp_path):
    found, beside = (
        trainings(setting, tmp_path / name, rungs=(STEPS,))(members_of([first, *RATES[1:]]))
        for name, first in (("a", 3e37), ("b", RATES[0]))
    )
    assert found[0] is None
    assert found[1:] == beside[1:]


def test_a_setting_that_is_there_twice_is_one_member(setting, tmp_path):
    best, worst = members_of([1e-2, 1e-4])
    found = trainings(setting, tmp_path, "single")([best, best, worst, best])
    assert found[0] == found[1] == found[3]
    assert [one["steps"] for one in found] == [STEPS, STEPS, 4, STEPS]


def test_a_member_that_diverges_has_no_error_to_be_compared_by(setting, tmp_path):
    one = trainings(setting, tmp_path, "single", objective="error")
    settings = members_of([3e37, 2e37, 1e-4])
    found = one(settings)
    assert found[:2] == [None, None]
    assert [n for n, _ in found[2]["rungs"]] == [4, STEPS]
    # Room for two was in the last rung, and neither of those that diverged took it.
    known = [one._member(setting).found for setting in settings]
    assert [len(raw["rungs"]) for raw in known] == [1, 1, 2]
    assert known[0]["error"] <= 1  # finite, though its logits are not


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rat=1..2", "did you mean 'learning_rate'? choose from learning_rate, warmup"),
        ("channels=8,16", "unknown leaf of this training 'channels': choose from"),
        ("label_dropout=0,.1", "unknown leaf of this training 'label_dropout'"),
        ("learning_rate=1e-2..1e-4", "runs from 1e-2 down to 1e-4: swap the ends"),
        ("learning_rate=.1..", "'' of learning_rate is not a number"),
        ("weight_decay=0..1:log", "a logarithm of weight_decay needs a lower end above 0"),
        ("learning_rate=0..1", "--learning-rate must be positive and finite"),
        ("ema_decay=.9..1", "--ema-decay must be at least 0 and below 1, got 1.0"),
        ("warmup=.5,.4", "warmup must be a whole number >= 0, got 0.5"),
        ("warmup=-1..3", "warmup must be a whole number >= 0, got -1"),
        ("clip=1 clip=2", "clip is given twice"),
        ("clip", "clip needs values"),
        ("", "has nothing to search: add a leaf, learning_rate"),
    ],
)
def test_a_space_that_is_none_is_refused_in_a_sentence(text, said):
    with pytest.raises(InputError) as refused:
        numbers.parse(text, presets.diffusion("digits"))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_point_of_a_space_is_a_job():
    job = presets.diffusion("digits")
    space = numbers.parse("learning-rate=1e-4..1e-2:log warmup=10..20 ema_decay=.9,.99", job)
    named = {"learning_rate": 0.00123456, "warmup": 14.6, "ema_decay": 0.99}
    setting = space.setting(space.point(space.families[0], named))
    assert str(setting) == "learning_rate=0.001235 warmup=15 ema_decay=0.99"
    assert setting.of(job) == dataclasses.replace(
        job, learning_rate=0.001235, warmup=15, ema_decay=0.99
    )
    few = numbers.parse("warmup=0..3:8", job)
    assert [str(few.setting(point)) for point in few.grid(5)] == [
        "warmup=0", "warmup=1", "warmup=2", "warmup=3"
    ]  # fmt: skip
    assert space.facts == {
        "space": ["diffusion learning_rate=0.0001..0.01:log warmup=10..20 ema_decay=0.9,0.99"]
    }

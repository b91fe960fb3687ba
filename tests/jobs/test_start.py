"""How jobs start and end: imports, help, `dng`, streams, interrupts, devices."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from types import SimpleNamespace

import jax
import pytest
from rich.console import Console

from dng_jax import cli
from dng_jax.errors import InputError
from dng_jax.jobs import cli as programs
from dng_jax.jobs import completion, devices, interrupts
from dng_jax.jobs.tables import Table
from dng_jax.training import presets
from tests.house import ROOT, imported, modules
from train import loop

HEAVY = ("jax", "flax", "matplotlib", "scipy", "sklearn", "optax", "orbax", "tensorflow_datasets")

# Every --help in one process: what is imported for one of them would be there for all.
HELP = """
import contextlib, io, json, sys
from dng_jax import cli
from eval.hopfield.options import COMMANDS
texts = {}
for words in [*cli.JOBS, *(f"hopfield {name}" for name in COMMANDS)]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        cli.main([*words.split(), "--help"])
    texts[words] = out.getvalue()
print(json.dumps({"texts": texts, "modules": [*sys.modules]}))
"""


@pytest.fixture(scope="module")
def shown():
    child = subprocess.run(
        [sys.executable, "-c", HELP], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return json.loads(child.stdout)


def described(text):
    """{option or positional argument: what --help says of it}."""
    found = {}
    for block in re.split(r"(?m)^  (?=-{1,2}[a-z]|\[?[A-Z]{2})", text)[1:]:
        # Two spaces, or a line of its own, between the names with their values and the text.
        names, _, said = re.sub(r"\n| {2,}", "\0", block.split("\n" + " " * 80)[0]).partition("\0")
        found[names.split()[0].strip(",")] = " ".join(said.replace("\0", " ").split())
    return found


# --------------------------------------------------------------------------- imports and help


def test_help_is_shown_before_anything_that_computes_is_imported(shown):
    assert set(HEAVY).isdisjoint(name.partition(".")[0] for name in shown["modules"])


def test_help_names_the_command_that_was_typed(shown):
    for words, text in shown["texts"].items():
        assert f"usage: dng {words} " in text, (words, text[:200])
        assert str(ROOT) not in text
        assert "python -m" not in text, words


def test_every_option_of_every_job_is_described(shown):
    bare = []
    for words, text in shown["texts"].items():
        options = described(text)
        assert len(options) > 1 or words in ("hopfield", "study report"), words
        for name, said in options.items():
            if len(re.sub(r"\(default:.*", "", said).split()) < 3:
                bare.append((words, name, said))
    assert not bare


@pytest.mark.parametrize(
    ("job", "ranges"),
    [
        ("class-removal", {"--probes": "0 to 64", "--seeds": "0 to 2^64 - 1", "--delta": "finite"}),
        ("study", {"--seeds": "0 to 2^64 - 1"}),
        ("calibration", {"--seed": "0 to 2^64 - 2"}),  # it takes two
        ("exact", {"--seed": "0 to 2^64 - 1"}),
        ("train diffusion", {"--seed": "0 to 2^32 - 1"}),
        ("hopfield bifurcation", {"--betas": "2 to 10,000", "--seed": "0 to 2^32 - 1"}),
        ("hopfield collapse", {"--betas": "6 to 10,000"}),
        ("hopfield attention", {"--tokens": "2 to 16,384", "--kv-heads": "1 to 1024"}),
    ],
)
def test_help_names_both_ends_of_a_range(shown, job, ranges):
    said = described(shown["texts"][job])
    for name, ends in ranges.items():
        assert ends in said[name], (name, said[name])


def test_the_presets_are_listed_with_a_line_each(shown):
    for job, known in (("diffusion", presets.DIFFUSION), ("classifier", presets.CLASSIFIER)):
        text = shown["texts"][f"train {job}"]
        for name, make in known.items():
            assert re.search(rf"(?m)^    {name} +{re.escape(make.__doc__[:30])}", text), name
    assert "Trains a classifier of images" in shown["texts"]["train classifier"]
    assert "U-Net" not in shown["texts"]["train classifier"].partition("options")[0]


def test_options_that_messages_name_exist(shown):
    known = {n for t in shown["texts"].values() for n in re.findall(r"--[a-z][\w.-]*\w", t)}
    missing = []
    for module in modules():
        sheets = {
            id(node.body[0].value)
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named = re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", node.value)
                if id(node) not in sheets and module.name != "dng_jax.jobs.completion":
                    missing += [(module.name, n) for n in named if n not in known]
    # Of git and of nothing of ours; and one that every program has.
    ours = {n for n in missing if n[0] != "dng_jax.jobs.runs" and n[1] not in ("--version",)}
    assert not ours


@pytest.mark.parametrize("name", ["dng_jax", "dng_jax.nets", "dng_jax.training"])
def test_lazy_names_are_those_that_type_checkers_see(name):
    package = importlib.import_module(name)
    (source,) = (m for m in modules() if m.name == name)
    (guard,) = (n for n in source.tree.body if isinstance(n, ast.If))
    seen = {}
    for statement in guard.body:
        assert isinstance(statement, ast.ImportFrom)
        for alias in statement.names:
            seen[alias.name] = statement.module
    eager = {n for target, names in imported(source, at_import=True) for n in names}
    assert set(seen) - {"__version__"} == set(package.__all__) - eager
    for exported, home in seen.items():
        whole = importlib.import_module(home)
        value = getattr(package, exported)
        there = sys.modules[f"{name}.{exported}"] if home == name else getattr(whole, exported)
        assert value is there
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'sampel'"):
        package.sampel  # noqa: B018


# --------------------------------------------------------------------------- dng


def test_dng_alone_lists_every_job(capsys):
    cli.main([])
    listed = capsys.readouterr().out
    for name, job in cli.JOBS.items():
        assert re.search(rf"(?m)^  dng {name} +{re.escape(job.about)}$", listed), name
    for words in (["help"], ["--help"]):
        cli.main(words)
        assert capsys.readouterr().out == listed
    for words in (["train"], ["train", "--help"]):
        cli.main(words)
        two = capsys.readouterr().out.splitlines()
        assert [" ".join(line.split()[1:3]) for line in two] == [
            "train diffusion", "train classifier", "train text-to-image", "train tune"
        ]  # fmt: skip
    cli.main(["--version"])
    with open(ROOT / "pyproject.toml", "rb") as file:
        assert capsys.readouterr().out == f"dng_jax {tomllib.load(file)['project']['version']}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["clas-removal"], "did you mean 'class-removal'?"),
        (["class_removal"], "did you mean 'class-removal'?"),
        (["train", "difusion"], "did you mean 'train diffusion'?"),
        (["completion"], "name a shell: dng completion bash, zsh or fish"),
        (["completion", "ksh"], "unknown shell 'ksh'"),
    ],
)
def test_an_unknown_job_is_one_sentence(capsys, words, said):
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_shell_completes_jobs_and_options(monkeypatch):
    shells = {
        "exact": "usage: dng exact\n\noptions\n  --samples INT  \n  --out STR  Folder --no\n",
        "study": "usage: dng study\n\noptions\n  --resume, --no-resume\n",
        "study report": "usage: dng study report\n\n",
    }

    def run(words):
        print(shells[" ".join(words[:-1])])

    assert completion.options(shells, run) == {
        "exact": ["--samples", "--out"],
        "study": ["--resume", "--no-resume", "report"],
        "study report": [],
    }
    script = completion.script("bash", shells, run)
    ask = 'COMP_WORDS=(dng exact --s); COMP_CWORD=2; _dng; echo "${COMPREPLY[@]}"'
    answer = subprocess.run(["bash", "-c", script + ask], capture_output=True, text=True)
    assert answer.stdout == "--samples\n"
    first, _, rest = completion.script("zsh", shells, run).partition("\n")
    assert "bashcompinit" in first
    assert rest == script


def wheel_settings():
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]


def forced(version, monkeypatch):
    """What the build hook adds to a wheel, without hatchling, which only builds need."""
    interface = "hatchling.builders.hooks.plugin.interface"
    monkeypatch.setitem(sys.modules, interface, SimpleNamespace(BuildHookInterface=object))
    for above in ("hatchling", "hatchling.builders", "hatchling.builders.hooks",
                  "hatchling.builders.hooks.plugin"):  # fmt: skip
        monkeypatch.setitem(sys.modules, above, SimpleNamespace())
    hook, build_data = runpy.run_path(ROOT / "hatch_build.py")["Jobs"](), {"force_include": {}}
    hook.config = wheel_settings()["hooks"]["custom"]
    hook.initialize(version, build_data)
    return build_data["force_include"]


def test_an_editable_install_copies_no_job(monkeypatch):
    assert forced("editable", monkeypatch) == {}
    assert "force-include" not in wheel_settings()


def test_a_wheel_holds_the_jobs_and_takes_no_other_name(tmp_path, shown, monkeypatch):
    wheel = wheel_settings()
    skipped = shutil.ignore_patterns("*.safetensors", "__pycache__")
    for package in wheel["packages"]:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=skipped)
    for source, target in forced("standard", monkeypatch).items():
        shutil.copytree(ROOT / source, tmp_path / target, ignore=skipped)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dng_jax", "hopfield_jax"]
    code = "import sys; sys.path[:0] = [sys.argv[1]]\n" + HELP.replace("eval.", "dng_jax.eval.")
    child = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True, text=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    found = json.loads(child.stdout)
    assert found["texts"] == shown["texts"]
    assert {"eval", "train"}.isdisjoint(found["modules"])


# --------------------------------------------------------------------------- streams and signals


def child(code, *, stdout=subprocess.PIPE, **environment):
    """A process that runs the code, in which `cli` is dng_jax.jobs.cli."""
    whole = "from dng_jax.jobs import cli\n" + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", whole],
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def test_a_reader_that_has_gone_away_costs_no_results(tmp_path):
    read, write = os.pipe()
    os.close(read)
    job = f"""
    def job():
        for _ in range(1000):
            print("a line that nobody reads")
        open({str(tmp_path / "results")!r}, "w").write("all of them")
        with cli.progress_bar() as bar:
            bar.add_task("late", total=1)
    cli.start(job)
    """
    process = child(job, stdout=write)
    os.close(write)
    assert process.communicate()[1] == b""
    assert process.returncode == 0
    assert (tmp_path / "results").read_text() == "all of them"


@pytest.mark.parametrize("words", ["[]", "['--version']", "['train']"])
def test_dng_itself_minds_no_reader_that_has_gone_away_and_says_that_a_disk_is_full(words):
    code = f"from dng_jax import cli\ncli.main({words})"
    read, write = os.pipe()
    os.close(read)
    gone = child(code, stdout=write)
    os.close(write)
    assert (gone.communicate()[1], gone.returncode) == (b"", 0)
    with open("/dev/full", "w") as full:
        process = child(code, stdout=full)
        error = process.communicate()[1].decode()
    assert process.returncode == 2
    assert re.fullmatch(r"error: cannot write .*no space left on device.*\n", error)


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1"])
def test_a_terminal_without_a_character_loses_no_table(encoding):
    job = """
    from dng_jax.jobs.tables import Table
    table = Table("λ of each", ["rule", "λ₀"])
    table.add("np", 0.3)
    table.add("none", None)
    cli.start(table.print)
    """
    process = child(job, PYTHONIOENCODING=encoding)
    out, error = process.communicate()
    assert (process.returncode, error) == (0, b"")
    lines = out.decode("latin-1").splitlines()
    assert lines[0].startswith(r"\u03bb of each")
    assert any("np" in line and "0.3" in line for line in lines)
    assert any("none" in line and "- |" in line for line in lines)


def test_the_backend_of_a_notebook_stops_no_job():
    backend = "module://matplotlib_inline.backend_inline"
    process = child("cli.start(lambda: __import__('matplotlib.figure'))", MPLBACKEND=backend)
    assert process.communicate() == (b"", b"")
    assert process.returncode == 0


def interrupted(job, times=1):
    """(exit code, stderr, seconds) of a process that says "begun" and gets so many Ctrl-C."""
    # What a shell starts in the background ignores Ctrl-C, and so do its children.
    heed = "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    process = child(f"import signal, time\n{heed}from dng_jax.jobs import interrupts\n" + job)
    assert process.stdout.readline() == b"begun\n"
    time.sleep(0.3)  # while it prints, an interrupt can make it print again
    began = time.monotonic()
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    try:
        error = process.communicate(timeout=20)[1]
    finally:
        process.kill()
    return process.returncode, error, time.monotonic() - began


# As jax loses a KeyboardInterrupt that is raised while it calls back, and C++ gives it no turn.
LOSES = """
    print("begun", flush=True)
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass
"""


def test_a_device_without_memory_is_one_sentence(capsys):
    def fails(said):
        raise jax.errors.JaxRuntimeError(said)

    with pytest.raises(SystemExit) as left:
        programs.main(lambda: fails("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nMore"))
    assert left.value.code == 2
    assert capsys.readouterr().err == f"error: {programs.FULL}\n"
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        programs.main(lambda: fails("INTERNAL: a fault of ours"))


def test_an_interrupt_that_is_lost_ends_the_process_all_the_same():
    job = f"interrupts.GRACE = 0.2\ndef job():{LOSES}\ncli.start(job)"
    assert interrupted(job)[:2] == (130, b"interrupted\n")


@pytest.mark.parametrize("handler", ["signal.default_int_handler", "lambda *a: interrupts.took()"])
def test_a_second_interrupt_ends_the_process_at_once_whoever_handles_it(handler):
    job = f"def job():\n    signal.signal(signal.SIGINT, {handler}){LOSES}\ncli.start(job)"
    code, error, seconds = interrupted(job, times=2)
    assert (code, error) == (130, b"interrupted\n")
    assert seconds < 2 < interrupts.GRACE


@pytest.mark.parametrize("how", ["took", "defer"])
def test_an_interrupt_that_a_handler_heeds_or_will_ends_nothing(how):
    # The handler is gone by the time that the first Ctrl-C is judged.
    job = f"""
interrupts.GRACE = 0.2
def job():
    def note(number, frame):
        signal.signal(number, signal.default_int_handler)
        interrupts.took() if {how == "took"} else None
    interrupts.defer({how == "defer"})
    signal.signal(signal.SIGINT, note)
    print("begun", flush=True)
    time.sleep(1.2)
cli.start(job)
"""
    assert interrupted(job)[:2] == (0, b"")


def test_a_full_disk_below_the_streams_does_not_keep_an_interrupted_process_alive():
    job = f"""
interrupts.GRACE = 0.2
def job():
    import os
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
{LOSES.replace("flush=True)", "flush=True); os.dup2(2, 1)")}
cli.start(job)
"""
    assert interrupted(job)[:2] == (130, b"")


def test_signals_stop_a_training_once_and_then_act_as_usual():
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for first in interrupts.STOPS:
            stop, before = loop.StopSignal(), signal.getsignal(first)
            with stop.listening():
                stop.begin()
                signal.raise_signal(first)
                assert stop.name == first.name
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(first) is before
    finally:
        signal.signal(signal.SIGINT, usual)


def test_an_interrupt_ends_a_training_that_still_compiles():
    # As C++ does, the main thread gives no handler a turn; what a training installs is one.
    job = """
interrupts.GRACE = 0.2
def job():
    import ctypes
    signal.signal(signal.SIGINT, lambda *a: None)
    print("begun", flush=True)
    seconds, again = 20, ctypes.CDLL(None).sleep
    while seconds:
        seconds = again(seconds)
cli.start(job)
"""
    code, error, seconds = interrupted(job)
    assert (code, error) == (130, b"interrupted\n")
    assert seconds < 5


# --------------------------------------------------------------------------- tables


RULES = ("unguided", "dng:classes-model=1")


def table_of_rules():
    table = Table("digits without 0, n = 1024 per rule", ["rule", "leak % [95%]", "KL [95%]",
                  "KL among allowed", "reversed KL", "Frechet", "calls per image"])  # fmt: skip
    table.add(RULES[0], "10.16 [8.45, 12.16]", "0.1095 [0.0874, 0.1324]", 0.0024, 0.5, 2.43, 50)
    table.add(RULES[1], "0.00 [0.00, 0.37]", "0.0006 [-0.0051, 0.0092]", 0.06, 0.7, 0.15, 51)
    return table


@pytest.mark.parametrize("width", [200, 100, 80, 60, 40, 25, 10])
def test_a_narrow_terminal_cuts_no_number_and_no_name(width, capsys):
    table = table_of_rules()
    table.print(Console(width=width, force_terminal=True, color_system=None))
    printed = capsys.readouterr().out
    for row in table.rows:
        for cell in row:
            value, bracket, interval = cell.partition(" [")
            assert re.search(rf"(?m)(^|[ │]){re.escape(value)}( |$)", printed), cell
            assert bracket.strip() + interval in printed
    for heading in table.columns:
        assert all(word in printed for word in heading.split())
    assert "…" not in printed
    if width >= 40:
        assert max(map(len, printed.splitlines())) <= width


def test_a_pipe_is_as_wide_as_a_table(capsys):
    table = table_of_rules()
    table.add("x" * 300, *"abcdef")
    table.print()
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("│ ") for line in lines) == 3


# -------------------------------------------------------------------------------------- devices


def test_a_variable_that_names_no_device_here_is_blamed_itself(monkeypatch):
    def none_here():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(jax, "devices", none_here)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(InputError, match="JAX_PLATFORMS names cuda: unset it") as found:
        devices.select()
    assert "--platform" not in str(found.value)
    monkeypatch.delenv("JAX_PLATFORMS")
    # Some jobs have no --platform, and nobody gave it.
    with pytest.raises(InputError, match="no usable device here: set the environment variable"):
        devices.select()

"""Completion of `dng` by a shell: a script that knows the jobs and the options of each.

    bash    dng completion bash > ~/.local/share/bash-completion/completions/dng
    zsh     dng completion zsh > ~/.dng-completion.zsh, and in ~/.zshrc after compinit:
            source ~/.dng-completion.zsh
    fish    dng completion fish > ~/.config/fish/completions/dng.fish

The script is written once, from what every job's --help shows; nothing runs while one types.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterable, Mapping

from dng_jax.errors import InputError, choose

BASH = """\
_dng() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[*]:1:COMP_CWORD-1}}" words=""
    case "$before " in
{cases}
        *) [ "$COMP_CWORD" = 1 ] && words="{first}" ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _dng dng
"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n"
SHELLS = ("bash", "zsh", "fish")


def script(shell: str, jobs: Iterable[str], run: Callable[[list[str]], None]) -> str:
    """The script of a shell; run: `dng` with these words. InputError for another shell."""
    if not shell:
        raise InputError(f"name a shell: dng completion {', '.join(SHELLS[:-1])} or {SHELLS[-1]}")
    choose(shell, SHELLS, "shell")
    known = options(jobs, run)
    if shell == "fish":
        return _fish(known)
    return _bash(known) if shell == "bash" else ZSH + _bash(known)


def options(jobs: Iterable[str], run: Callable[[list[str]], None]) -> dict[str, list[str]]:
    """What can follow each job, subcommands and options, as its --help shows them."""
    found: dict[str, list[str]] = {}
    for job in jobs:
        text = _help(job, run)
        commands = re.search(r"\{([a-z,-]+)\}(?:\s|$)", text.partition("\n\n")[0])
        names = commands[1].split(",") if commands else []
        found[job] = [*names, *_options(text)]
        if (above := job.rpartition(" ")[0]) in found:
            found[above].append(job.split()[-1])
        found |= {f"{job} {name}": _options(_help(f"{job} {name}", run)) for name in names}
    return found


def _help(words: str, run: Callable[[list[str]], None]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        run([*words.split(), "--help"])
    return out.getvalue()


def _options(text: str) -> list[str]:
    lines = re.findall(r"(?m)^(?:│ |  )(-.*?)(?:  .*)?$", text)
    return [name for line in lines for name in re.findall(r"--[a-z][\w.-]*", line)]


def _bash(known: Mapping[str, list[str]]) -> str:
    longest = sorted(known, key=len, reverse=True)  # study report before study
    cases = "\n".join(f'        "{job} "*) words="{" ".join(known[job])}" ;;' for job in longest)
    halves = [job.split()[1] for job in known if job.startswith("train ")]
    cases += f'\n        "train "*) words="{" ".join(halves)}" ;;'
    return BASH.format(cases=cases, first=" ".join(dict.fromkeys(job.split()[0] for job in known)))


def _fish(known: Mapping[str, list[str]]) -> str:
    lines = []
    for job in known:
        *before, last = job.split()
        lines.append(f"complete -c dng -n '{_typed(before)}' -f -a {last}" if before else
                     f"complete -c dng -n __fish_use_subcommand -f -a {last}")  # fmt: skip
        if before == ["train"]:
            lines.append("complete -c dng -n __fish_use_subcommand -f -a train")
        for name in (n for n in known[job] if n.startswith("--")):
            lines.append(f"complete -c dng -n '{_typed(job.split())}' -l {name[2:]}")
    return "\n".join(dict.fromkeys(lines)) + "\n"


def _typed(words: list[str]) -> str:
    return "; and ".join(f"__fish_seen_subcommand_from {word}" for word in words)

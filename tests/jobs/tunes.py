"""train.tune as tests run it: a classifier of four channels, for eight steps."""

from __future__ import annotations

from train.tune import job
from train.tune.options import parse

TINY = (
    "--of classifier --network.widths 4 --network.features 8 --no-warp --steps 8 --batch-size 16"
    " --log-every 4"
)


def run(folder, more="", space="learning_rate=1e-3..3e-2:log smoothing=0,.1", words=TINY):
    given = f"{words} --out {folder} {more}".split()
    return job.run(parse([*given, "--space", space]))

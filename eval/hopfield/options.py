"""Options of the subcommands of eval.hopfield: what is asked for, known before anything is imported
that computes. Each subcommand is a file of its name, which sees its options as Config.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from dng_jax.jobs.options import DataOptions, RunOptions


@dataclass(frozen=True)
class Options:
    """Options of every subcommand."""

    seed: int = 0
    """Seed of whatever is drawn at random, 0 to 2^32 - 1."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    run: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)


@dataclass(frozen=True)
class Precise(Options):
    """Options of every subcommand that searches minima."""

    precision: Literal["float32", "float64"] = "float64"
    """Of the fixed-point search; critical values are good to about 1e-4 in float32."""


@dataclass(frozen=True)
class Source:
    """Which patterns are stored; see eval/hopfield/sets.py."""

    patterns: str = "equidistant"
    """equidistant, random, ultrametric, digits, mnist, another data set, or FILE.npy."""
    count: int | None = None
    """Number of patterns N, 2 to 65536; default: all rows of a FILE.npy, 60 images, else by
    subcommand."""
    dimension: int | None = None
    """Dimension d of made patterns, at least 1; default: as few as they need, 64 of random ones."""
    norm: float = 1.0
    """Norm of made patterns, above 0."""
    angle: float = 90.0
    """Angle between equidistant patterns, in degrees, above 0 and at most that of a simplex."""
    groups: int = 4
    """Groups of ultrametric patterns, at least 1, --count / --groups in each."""
    within: float = 0.8
    """Inner product of two ultrametric patterns of one group, below norm^2."""
    between: float = 0.0
    """Inner product of ultrametric patterns of two groups, below --within."""
    normalise: Literal["none", "unit", "centred-unit"] | None = None
    """What is done to images (default centred-unit), or to the rows of FILE.npy (default none)."""
    energy: Literal["dot", "euclidean"] = "dot"
    """dot-product energy, or the Euclidean one, under which every pattern is retrievable."""


Chosen = Annotated[Source, tyro.conf.arg(name="")]  # its options without a prefix


@dataclass(frozen=True)
class Bifurcation(Precise):
    """Minima over beta_eff: branches, hysteresis loop, number of minima, energies, order."""

    source: Chosen = field(default_factory=Source)
    betas: int = 48
    """Values of beta_eff, 2 to 10,000, evenly spaced in their logarithm."""
    low: float | None = None
    """Least beta_eff, above 0; default: half of K_s."""
    high: float | None = None
    """Largest beta_eff; default: 1.6 N."""


@dataclass(frozen=True)
class PhaseDiagram(Precise):
    """(N, beta_eff) with K_s, K_c, N exact and as each protocol measures them."""

    counts: tuple[int, ...] = (3, 5, 10, 24, 64)
    """Numbers of equidistant patterns, at least two, 3 to 4096."""


@dataclass(frozen=True)
class Collapse(Precise):
    """Several norms, angles and dimensions fall on one curve in beta_eff, one for each N."""

    counts: tuple[int, ...] = (8, 32)
    """Numbers of equidistant patterns, 3 to 4096; each is made in four shapes."""
    betas: int = 28
    """Values of beta_eff for each set, 6 to 10,000."""


@dataclass(frozen=True)
class Basins(Precise):
    """Basin volumes over beta_eff, and the watershed between centroid and pattern."""

    source: Chosen = field(default_factory=Source)
    betas: int = 24
    """Values of beta_eff, 2 to 10,000, evenly spaced in their logarithm."""
    low: float | None = None
    """Least beta_eff, above 0; default: 0.8 K_s."""
    high: float | None = None
    """Largest beta_eff; default: 1.5 N."""
    starts: int = 512
    """Starts for each beta, 1 to 100000, from a Dirichlet distribution of weights."""
    concentration: float = 1.0
    """Of that distribution, above 0: 1 is uniform, smaller is nearer to the patterns."""


@dataclass(frozen=True)
class Landscape(Precise):
    """Energy along the line from the centroid to a pattern, and on a plane; barriers."""

    source: Chosen = field(default_factory=Source)
    plane: str = "patterns"
    """patterns: through the first three; principal: along the two leading axes of all."""
    at: tuple[float, ...] = ()
    """Values of beta_eff, above 0; default: .8 K_s, between K_s and K_c and between K_c and N,
    1.3 N."""
    resolution: int = 81
    """Points along each side of a map, 8 to 1001."""


@dataclass(frozen=True)
class Retrieval(Precise):
    """Retrieval from noisy and masked patterns, against beta_eff."""

    source: Chosen = field(default_factory=lambda: Source("digits"))
    noise: tuple[float, ...] = (1.0, 2.0, 3.0)
    """Norms of the noise, relative to the patterns', above 0."""
    mask: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Shares of entries set to 0, above 0 and at most 1."""
    betas: int = 20
    """Values of beta_eff, 2 to 10,000, evenly spaced in their logarithm."""
    low: float | None = None
    """Least beta_eff, above 0; default: half of K_s."""
    high: float | None = None
    """Largest beta_eff; default: 30 K_s."""


@dataclass(frozen=True)
class Capacity(Precise):
    """Share of patterns with a minimum of their own; predicted onset against measured."""

    sizes: tuple[str, ...] = ("16x64", "64x64", "64x512")
    """Sets of random unit vectors, as NxD; none to leave them out."""
    patterns: str = "digits"
    """Data set beside them: digits, mnist, another one, or none."""
    images: tuple[int, ...] = (10, 100)
    """Numbers of images in a set, at least 2 each."""
    normalise: tuple[str, ...] = ("unit", "centred-unit", "none")
    """Normalisations of the images: none, unit, centred-unit."""
    energies: tuple[str, ...] = ("dot",)
    """dot, euclidean or both, set beside set."""
    repeats: int = 2
    """Sets of each kind, 1 to 1000, whose onsets are pooled."""


@dataclass(frozen=True)
class Metastable(Precise):
    """Minima of several patterns: exact windows of ultrametric groups, and trees of minima."""

    patterns: tuple[str, ...] = ("ultrametric", "digits")
    """Sets whose trees are drawn."""
    count: int = 40
    """Patterns in each tree, at least 2 (ultrametric: 4 groups of --count / 4)."""
    normalise: str = "centred-unit"
    """Normalisation of images: none, unit, centred-unit."""
    betas: int = 28
    """Values of beta_eff in a tree, 2 to 10,000, evenly spaced in their logarithm."""
    low: float | None = None
    """Least beta_eff of the trees, above 0; default: 2."""
    high: float | None = None
    """Largest beta_eff of the trees; default: 6 K_s(N)."""


@dataclass(frozen=True)
class Spectrum(Precise):
    """Spectral report of one pattern set: what is predicted before any iteration, and measured."""

    source: Chosen = field(default_factory=lambda: Source("digits"))


@dataclass(frozen=True)
class Diffusion(Options):
    """Where p(c|x_t) and lambda_t rise along real chains, against what is predicted."""

    dataset: str = "digits"
    """Data set whose images are the mixture's components."""
    forbid: str = "0"
    """Class c that guidance forbids, by name or number."""
    steps: int = 100
    """Sampling steps, 5 to 1000."""
    samples: int = 512
    """Chains of each kind, 16 to 65536."""
    sampler: str = "ddpm"
    """Step table: ddpm, ddpm-paper, ddim, euler, euler-ancestral."""


@dataclass(frozen=True)
class Attention(Options):
    """beta_eff of every head of an attention layer or a whole transformer, and what it
    retrieves."""

    model: str | None = None
    """Folder of a transformer as Hugging Face's transformers saves one, in place of --file: all
    layers of an encoder."""
    text: str | None = None
    """UTF-8 file that --model reads: a sequence per paragraph, blank lines between them."""
    sequences: int | None = None
    """Sequences of --text, 1 to 1000, the longest paragraphs; default 8."""
    file: str | None = None
    """safetensors file of the projection weights; default: random ones of the demonstration."""
    key: str | None = None
    """Name of the key projection in the file."""
    query: str | None = None
    """Name of the query projection; without it states start at the keys."""
    fused: str | None = None
    """Name of one projection of queries, keys and values, in place of --key and --query."""
    key_bias: str | None = None
    """Name of the key projection's bias; default: none is added."""
    query_bias: str | None = None
    """Name of the query projection's bias."""
    fused_bias: str | None = None
    """Name of the fused projection's bias."""
    inputs: str | None = None
    """Name of the layer's inputs [T, D], a tensor in --inputs-file."""
    inputs_file: str | None = None
    """safetensors file of the inputs; default: the same file."""
    layout: Literal["out_in", "in_out"] = "out_in"
    """out_in: weights [H d_head, D] as in PyTorch's Linear; in_out: [D, H d_head], GPT-2, Flax."""
    heads: int | None = None
    """Heads of queries, 1 to 1024; a file needs it, the demonstration takes 4."""
    kv_heads: int | None = None
    """Heads of keys in the file, 1 to 1024, where they are fewer than those of queries."""
    head_dim: int | None = None
    """Dimensions per head of the demonstration, 1 to 4096, default 64; a file's follow from its
    shapes."""
    tokens: int | None = None
    """Keys per head, the first so many tokens, 2 to 16,384; default: all of a file, 64 of the
    demonstration, as many as --model takes of each sequence."""
    scale: float | None = None
    """Inverse temperature of the softmax, above 0; default: 1/sqrt(d_head)."""


@dataclass(frozen=True)
class Training(Options):
    """Classifiers trained at many temperatures: do they fall on one curve in beta_eff?"""

    dataset: str = "digits"
    """Images and classes to learn: digits, mnist or another data set."""
    counts: tuple[int, ...] = (16, 64, 256)
    """Numbers N of stored patterns, 2 to 4096 each."""
    dimensions: tuple[int, ...] = (16, 64)
    """Dimensions d of the patterns, 2 to 4096 each."""
    norms: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Norms of the patterns at the start, over sqrt(d), above 0: 1 is entries of unit variance."""
    betas: int = 13
    """Values of beta, an odd number of 3 to 101, evenly spaced in their logarithm about
    1/sqrt(d)."""
    span: float = 64.0
    """Largest beta over 1/sqrt(d), and 1/sqrt(d) over the least, above 1."""
    seeds: int = 8
    """Trainings of each kind, 2 to 1000, over which intervals are."""
    updates: int = 1
    """Updates of the state before it is read out, 1 to 100."""
    steps: int = 300
    """Training steps, 1 to 1,000,000."""
    batch: int = 64
    """Images in a batch, 1 to 65536."""
    rates: tuple[float, ...] = (0.003, 0.01, 0.03)
    """Learning rates of Adam, above 0; of the projection, divided by the root of its inputs."""


COMMANDS: dict[str, Callable[..., Any]] = {
    "bifurcation": Bifurcation,
    "phase-diagram": PhaseDiagram,
    "collapse": Collapse,
    "basins": Basins,
    "landscape": Landscape,
    "retrieval": Retrieval,
    "capacity": Capacity,
    "metastable": Metastable,
    "spectrum": Spectrum,
    "diffusion": Diffusion,
    "attention": Attention,
    "training": Training,
}

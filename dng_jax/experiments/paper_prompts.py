"""The prompts of the DNG paper's experiment with Stable Diffusion, abridged, and its numbers.

Koulischer et al., ICLR 2025, arXiv 2410.14398. The full texts of the prompts are not at hand here:
`prompt` says what they are about. Prior .01 throughout, NP at NP_SCALES beside DNG.
"""

from __future__ import annotations

from typing import NamedTuple

ABRIDGED = "the paper's prompts are abridged: their full texts are not at hand"
NP_SCALES = (1.7, 2.55, 3.4)
PRIOR = 0.01


class PaperPrompt(NamedTuple):
    """A prompt, the negative that belongs to such images, one that does not, and DNG's numbers."""

    prompt: str
    related: str
    unrelated: str
    tau: float
    delta: float
    scale: float

    @property
    def negatives(self) -> dict[str, str]:
        """Kind to negative prompt."""
        return {"related": self.related, "unrelated": self.unrelated}

    @property
    def dng(self) -> str:
        """DNG in words (dng_jax.experiments.rule_specs)."""
        return f"dng:pair={self.scale:g},tau={self.tau:g},delta={self.delta:g},prior={PRIOR:g}"


PROMPTS = (
    PaperPrompt(
        "medieval feast in a great hall, long tables, platters, goblets, knights and nobles",
        "chalices, candles",
        "kids playing football",
        0.2,
        0.004,
        27,
    ),
    PaperPrompt(
        "classic English breakfast, varied cooked items",
        "egg, sausage",
        "the view of a skyline",
        0.3,
        0.003,
        18,
    ),
    PaperPrompt(
        "beautifully set dinner table, elegant dishes and decor",
        "flowers, wine glasses",
        "a person wearing sunglasses",
        0.3,
        0.003,
        12,
    ),
    PaperPrompt(
        "creative art workshop, tools, materials, participants",
        "paintbrush, canvases",
        "a bicycle in the rain",
        0.2,
        0.002,
        27,
    ),
    PaperPrompt(
        "charming antique store, shelves of historical treasures",
        "lamps, old books",
        "an electric toothbrush",
        0.2,
        0.004,
        21,
    ),
)

"""Pictures of a prompt, guided away from negative prompts.

    python -m eval.text_to_image --prompt "even digits" --negative "a four"
    python -m eval.text_to_image --model MODEL --prompt "a feast" --negative "candles"
    python -m eval.text_to_image --model MODEL --study paper      the prompts of the DNG paper

MODEL: a folder of Stable Diffusion 1 or 2 as diffusers saves it, or a repository OWNER/NAME of the
Hugging Face hub; by default digit-scenes, a small model of two digits that comes with the library.
Every rule starts image i from the same noise. How a prompt and negatives become the predictions
that rules compare is the variant (dng_jax.denoisers.branches):

    a        CFG of the prompt against the negative alone
    b        CFG of the prompt against CFG of the negative
    c        the prompt against the negative, without CFG
    d        as a, but the posterior compares the negative with the empty prompt
    nested   as b, the negative being "PROMPT, NEGATIVE"

The variant matters to rules that ask for a negative of its making: np and dng. inplace, sld and
feedback take the raw predictions (dng_jax.experiments.prompt_rules). --study paper uses variant d:
the paper's own formula, p(x|c) / p(x), compares the negative with the empty prompt.

Writes to --out: latents/ and images/, rule by rule; contact_sheet.png (rules by images, the first
16 of them), over_time.csv and pictures of the posterior and of lambda along the chain, tables.md
and results.json. Invasiveness is the root mean square distance to the unguided image of the same
noise; steps at a clamp, the share of steps at which the posterior could not move. lambda is capped
at 10, but in the study of the paper. With several negatives the posterior is that of their total.
"""

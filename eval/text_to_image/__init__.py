"""Pictures of a prompt, guided away from negative prompts.

    python -m eval.text_to_image --model MODEL --prompt "a feast" --negative "candles"
    python -m eval.text_to_image --model MODEL --study paper      the prompts of the DNG paper

MODEL: a folder of Stable Diffusion 1 or 2 as diffusers saves it, or a repository OWNER/NAME of the
Hugging Face hub. Every rule starts image i from the same noise. How a prompt and negatives become
the predictions that rules compare is the variant (dng_jax.denoisers.branches):

    a        CFG of the prompt against the negative alone
    b        CFG of the prompt against CFG of the negative
    c        the prompt against the negative, without CFG
    d        as a, but the posterior compares the negative with the empty prompt
    nested   as b, the negative being "PROMPT, NEGATIVE"

Writes to --out: images/, contact_sheet.png (rules by images), over_time.csv and pictures of the
posterior and of lambda along the chain, tables.md and results.json. Invasiveness is the root mean
square distance to the unguided image of the same noise.
"""

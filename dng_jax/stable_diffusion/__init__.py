"""Stable Diffusion: text-to-image networks in the layout of their published files.

    clip_config  a CLIP text encoder, as its config.json describes it
    clip_text    the encoder: tokens -> hidden states, and the prompt as one vector
    tokenizer    prompts -> tokens
    schedule     scheduler_config.json -> noise levels, and which of them are visited

At run time nothing of PyTorch is needed, and of Hugging Face's packages `tokenizers` alone (extra
`text`).
"""

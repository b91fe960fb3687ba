"""Trains a diffusion U-Net: python -m train.diffusion --preset digits --out runs/digits-heads"""

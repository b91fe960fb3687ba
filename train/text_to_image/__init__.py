"""Trains a small text-to-image model: python -m train.text_to_image --preset digit-scenes"""

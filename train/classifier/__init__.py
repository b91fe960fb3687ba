"""Trains a classifier of images: python -m train.classifier --preset digits"""

"""Instruments: they read a number off labelled arrays, and know nothing of tensors."""

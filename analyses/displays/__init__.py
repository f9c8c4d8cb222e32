"""Figures as objects: made from data, drawn on any axes, returned and never shown."""

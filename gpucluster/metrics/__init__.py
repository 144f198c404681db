"""Measures of a clustering: cohesion and quality, agreement with known labels, when to redo it."""

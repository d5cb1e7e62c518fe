"""Formulas that more than one paper prints, as pure functions."""

"""Figures and the page, from files alone."""

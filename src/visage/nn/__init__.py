"""Layers that papers call by name; no objective lives here."""

"""Measurements, asked for by capability, never by model name."""

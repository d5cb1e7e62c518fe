"""Trained models in the hands of people: loaded by name or from a folder, asked about photographs, given away."""

"""The command line `visage`: what a person does with trained models."""

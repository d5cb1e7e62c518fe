"""Asking a model about many images: in batches, with named random numbers, by capability."""

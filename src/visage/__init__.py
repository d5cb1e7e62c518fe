"""Train, measure and compare deep generative models of faces, under one protocol."""

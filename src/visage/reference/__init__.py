"""What depends on no model, computed once for each image size: sets of other images, baselines, features, controls."""

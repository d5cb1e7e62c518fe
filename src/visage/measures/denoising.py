"""At how much noise it is measured how well noise is removed from images."""

LEVELS = {
    "denoise_mse_0_05": 0.05,
    "denoise_mse_0_2": 0.2,
    "denoise_mse_0_5": 0.5,
    "denoise_mse_1": 1.0,
    "denoise_mse_5": 5.0,
}
"""Measure -> sigma, the standard deviation of the noise, for pixels in [-1, 1]: from hardly any to hardly an image."""

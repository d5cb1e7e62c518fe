import math

import pytest
import torch

from visage.maths.pixels import to_float
from visage.measures.reconstruction import PER_IMAGE, mse, psnr, ssim


def pair(seed=0, size=32, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(5, 3, size, size, generator=g, dtype=dtype) * 2 - 1
    y = (x + 0.2 * torch.randn(x.shape, generator=g, dtype=dtype)).clamp(-1, 1)
    return x, y


def shifted(images, shift):
    """Images, and the same with every value `shift` levels higher."""
    x = to_float(torch.from_numpy(images))
    return x, x + 2 * shift / 255


def test_every_measure_gives_one_value_per_image():
    assert {name: measure(*pair()).shape for name, measure in PER_IMAGE.items()} == dict.fromkeys(PER_IMAGE, (5,))


def test_a_perfect_reconstruction_has_no_error(images):
    x, y = shifted(images, 0)
    assert (mse(x, y) == 0).all()
    assert (psnr(x, y) == math.inf).all()
    assert ssim(x, y).numpy() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("shift", [1, 5])
def test_a_known_shift_has_the_known_error(images, shift):
    x, y = shifted(images, shift)
    assert mse(x, y).numpy() == pytest.approx((shift / 255) ** 2, rel=1e-5)
    assert psnr(x, y).numpy() == pytest.approx(20 * math.log10(255 / shift), abs=1e-4)


def test_psnr_is_that_of_the_8_bit_images(images):
    x, y = shifted(images, 0.4)
    assert (psnr(x, y) == math.inf).all()
    assert mse(x, y).numpy() == pytest.approx((0.4 / 255) ** 2, rel=1e-4)


def test_ssim_agrees_with_a_filter_of_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    x, y = pair()

    def blur(image):
        # truncate = 3.5 makes the window 11 pixels wide; the border, where it would reach outside, is cut off
        blurred = ndimage.gaussian_filter(image, sigma=(0, 0, 1.5, 1.5), truncate=3.5)
        return blurred[..., 5:-5, 5:-5]

    a, b = ((t.numpy() + 1) / 2 for t in (x, y))
    va, vb, cov = blur(a * a) - blur(a) ** 2, blur(b * b) - blur(b) ** 2, blur(a * b) - blur(a) * blur(b)
    luminance = (2 * blur(a) * blur(b) + 1e-4) / (blur(a) ** 2 + blur(b) ** 2 + 1e-4)
    structure = (2 * cov + 9e-4) / (va + vb + 9e-4)
    assert ssim(x, y).numpy() == pytest.approx((luminance * structure).mean((1, 2, 3)), abs=1e-10)


def test_ssim_of_constant_images_is_their_luminance_term():
    x, y = torch.full((1, 3, 16, 16), -0.5).double(), torch.full((1, 3, 16, 16), 0.5).double()
    assert ssim(x, y).item() == pytest.approx((2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4), abs=1e-12)


def test_ssim_in_single_precision_is_close_to_double():
    x, y = pair(size=64)
    assert ssim(x.float(), y.float()).numpy() == pytest.approx(ssim(x, y).numpy(), abs=1e-5)


def test_ssim_is_worst_for_the_negative_and_symmetric():
    x, y = pair()
    assert (ssim(x, -x) < 0.2).all()
    assert torch.equal(ssim(x, y), ssim(y, x))


def test_images_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))


def test_memory_order_does_not_matter(images):
    x = to_float(torch.from_numpy(images))
    y = (x * 0.9).contiguous()
    assert torch.equal(ssim(x, y), ssim(x.contiguous(), y))

import math

import numpy as np
import pytest
import torch
from small_models import Brighter, Identity

from visage.evaluation.reconstruction import mse, per_image, psnr, ssim
from visage.maths.pixels import to_float

CPU = torch.device("cpu")
MEASURES = {"recon_mse": mse, "psnr": psnr, "ssim": ssim}


def pair(seed=0, size=32, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(5, 3, size, size, generator=g, dtype=dtype) * 2 - 1
    y = (x + 0.2 * torch.randn(x.shape, generator=g, dtype=dtype)).clamp(-1, 1)
    return x, y


def test_a_perfect_reconstruction_has_no_error(images):
    found = per_image(Identity(), images, MEASURES, device=CPU, batch_size=7)
    assert (found["recon_mse"] == 0).all()
    assert (found["psnr"] == math.inf).all()
    assert found["ssim"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("shift", [1, 5])
def test_a_known_shift_has_the_known_error(images, shift):
    found = per_image(Brighter(shift), images, MEASURES, device=CPU, batch_size=7)
    assert found["recon_mse"] == pytest.approx((shift / 255) ** 2, rel=1e-5)
    assert found["psnr"] == pytest.approx(20 * math.log10(255 / shift), abs=1e-4)


def test_psnr_is_that_of_the_8_bit_images(images):
    found = per_image(Brighter(0.4), images, MEASURES, device=CPU, batch_size=7)
    assert (found["psnr"] == math.inf).all()
    assert found["recon_mse"] == pytest.approx((0.4 / 255) ** 2, rel=1e-4)


def test_reconstructions_are_clamped():
    white = np.full((2, 16, 16, 3), 255, np.uint8)
    assert (per_image(Brighter(100), white, MEASURES, device=CPU, batch_size=2)["recon_mse"] == 0).all()


def test_batch_size_does_not_matter(images):
    one, all_ = (per_image(Brighter(3), images, MEASURES, device=CPU, batch_size=b) for b in (1, len(images)))
    for name in MEASURES:
        assert one[name] == pytest.approx(all_[name], abs=1e-6)


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

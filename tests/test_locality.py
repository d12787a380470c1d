# SPDX-License-Identifier: Apache-2.0
"""CIELAB compared with the standard, pixel by pixel; means inside and outside of a mask by hand and by laws."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylefast.locality import delta_e, lab_locality, locality, rgb_to_lab, roi, squared_error


def colour(*rgb: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(rgb, dtype=dtype).reshape(1, 3, 1, 1)


def random_images(n: int, h: int, w: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def determinant(m: list[list[Fraction]]) -> Fraction:
    (a, b, c), (d, e, f), (g, h, i) = m
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


WHITE = [Fraction("0.95047"), Fraction(1), Fraction("1.08883")]
# Exact fractions. Column k has the chromaticities x, y, z of primary k of sRGB. SCALES[k], by Cramer's rule, is its
# factor in the sum that gives white.
PRIMARIES = [[Fraction(n, 100) for n in row] for row in ((64, 30, 15), (33, 60, 6), (3, 10, 79))]
SCALES = [
    determinant([[WHITE[i] if j == k else PRIMARIES[i][j] for j in range(3)] for i in range(3)])
    / determinant(PRIMARIES)
    for k in range(3)
]


def lab_by_the_standard(r: float, g: float, b: float) -> tuple[float, float, float]:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (r, g, b)]
    f = []
    for row, white in zip(PRIMARIES, WHITE, strict=True):
        t = sum(float(p * s / white) * v for p, s, v in zip(row, SCALES, linear, strict=True))
        f.append(t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116)
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


@pytest.mark.parametrize(
    "rgb, lab",
    [
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        ((0.5, 0.5, 0.5), (53.39, 0, 0)),
        ((2.0, 1.5, 1.0), (100, 0, 0)),
        ((-1.0, 0.0, -0.1), (0, 0, 0)),
    ],
)
def test_known_colours(rgb, lab):
    assert rgb_to_lab(colour(*rgb)).flatten().tolist() == pytest.approx(lab, abs=6e-3)


def test_greys_have_no_colour_and_white_is_exact():
    greys = torch.linspace(0, 1, 101)[None, None, :, None].expand(1, 3, 101, 1)
    lab = rgb_to_lab(greys)
    assert lab[:, 1:].abs().max() < 1e-4
    assert lab[0, 0, -1].item() == 100 and lab[0, 0, 0].item() == 0
    assert (lab[0, 0].diff(dim=0) > 0).all()


def test_every_pixel_follows_the_standard():
    images = random_images(2, 9, 11)
    images[1] *= 0.05  # so that values lie on both sides of both thresholds
    lab = rgb_to_lab(images)
    for n, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(9), torch.arange(11)).tolist():
        expected = lab_by_the_standard(*images[n, :, y, x].tolist())
        assert lab[n, :, y, x].tolist() == pytest.approx(expected, abs=2e-4)


def test_lightness_of_grey_rises_without_jumps_in_value_or_slope():
    greys = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    slopes = rgb_to_lab(greys[None, None, :, None].expand(1, 3, 10_001, 1))[0, 0, :, 0].diff()
    bends = slopes[1:] / slopes[:-1]
    # The slopes of the two pieces of sRGB differ by 1.8 %.
    assert (slopes > 0).all() and bends.max() < 1.02 and bends.min() > 0.98


def test_gradients_are_finite_from_black_to_white():
    greys = torch.tensor([0, 0.02, 0.5, 1.0], dtype=torch.float64)[None, None, :, None].repeat(1, 3, 1, 1)
    rgb_to_lab(greys.requires_grad_()).square().sum().backward()
    assert greys.grad is not None and greys.grad.isfinite().all() and (greys.grad[:, :, 1:] > 0).all()


def test_gradients_of_the_difference_are_0_where_nothing_differs():
    target = random_images(1, 4, 4)
    edited = target.clone()
    edited[..., :2] = 1 - edited[..., :2]
    expected = delta_e(edited, target)
    got = delta_e(edited.requires_grad_(), target)
    torch.testing.assert_close(got, expected)
    got.sum().backward()
    assert edited.grad is not None and (edited.grad[..., :2] != 0).all() and (edited.grad[..., 2:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precisions_are_computed_in_float32(dtype):
    images = random_images(1, 8, 8).to(dtype)
    lab = rgb_to_lab(images)
    assert lab.dtype == torch.float32
    assert torch.allclose(lab.double(), rgb_to_lab(images.double()), atol=1e-3)


def test_errors_of_black_against_white_by_hand():
    black, white = colour(0, 0, 0), colour(1, 1, 1)
    assert squared_error(black, white).item() == pytest.approx(1 / 3)  # L changes by its whole range, a and b by 0
    assert delta_e(black, white).item() == pytest.approx(100)
    assert squared_error(white, white).shape == (1, 1, 1) and squared_error(white, white).item() == 0


def test_errors_follow_from_the_lab_values():
    edited, target = random_images(3, 4, 5), random_images(3, 4, 5, seed=1)
    scale = torch.tensor([2.55, 1, 1], dtype=torch.float64).reshape(3, 1, 1)
    scaled = [(rgb_to_lab(x) * scale + torch.tensor([[[0.0]], [[128.0]], [[128.0]]])) / 255 for x in (edited, target)]
    assert torch.allclose(squared_error(edited, target), ((scaled[0] - scaled[1]) ** 2).mean(1))
    for n in range(3):
        for y in range(4):
            pairs = [rgb_to_lab(x)[n, :, y, 0].tolist() for x in (edited, target)]
            assert delta_e(edited, target)[n, y, 0].item() == pytest.approx(math.dist(*pairs))


def test_locality_by_hand():
    target = colour(0, 0, 0).expand(1, 3, 2, 2)
    edited = target.clone()
    edited[0, :, 0, 0] = 1  # ΔE 100, error 1/3
    grey = rgb_to_lab(colour(0.5, 0.5, 0.5))[0, 0].item()
    edited[0, :, 1, 1] = 0.5
    mask = torch.tensor([[[True, True], [False, False]]])
    got = locality(edited, target, mask)
    assert got.delta_e_inside.tolist() == pytest.approx([50])
    assert got.delta_e_outside.tolist() == pytest.approx([grey / 2])
    assert got.in_mse.tolist() == pytest.approx([1 / 6])
    assert got.out_mse.tolist() == pytest.approx([(grey / 100) ** 2 / 3 / 2])
    assert got.ratio.tolist() == pytest.approx([100 / grey])
    assert all(value.dtype == torch.float64 and value.shape == (1,) for value in got)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_lab_differences_give_the_locality_of_the_images(n):
    edited, target = random_images(n, 6, 5), random_images(n, 6, 5, seed=1)
    mask = torch.rand(n, 3, 4, generator=torch.Generator().manual_seed(2))
    got = lab_locality(rgb_to_lab(edited) - rgb_to_lab(target), mask)
    assert all(map(torch.equal, got, locality(edited, target, mask)))
    with pytest.raises(ValueError, match=r"difference must have shape \[N, C, H, W\] with C = 3, got"):
        lab_locality(torch.zeros(1, 1, 6, 5), mask[:1])


@given(st.integers(0, 1000), st.booleans())
def test_inside_and_outside_complement_each_other(seed, soft):
    edited, target = random_images(2, 6, 4, seed=seed), random_images(2, 6, 4, seed=seed + 1)
    weights = random_images(2, 6, 4, seed=seed + 2)[:, 0]
    mask = weights if soft else weights > 0.5
    if not soft:
        mask[:, 0, 0], mask[:, 0, 1] = True, False
    forward, swapped = locality(edited, target, mask), locality(edited, target, 1 - mask if soft else ~mask)
    assert torch.allclose(forward.in_mse, swapped.out_mse) and torch.allclose(
        forward.delta_e_outside, swapped.delta_e_inside
    )
    fraction = mask.double().mean((1, 2))
    mean = fraction * forward.in_mse + (1 - fraction) * forward.out_mse
    assert torch.allclose(mean, squared_error(edited, target).mean((1, 2)), rtol=1e-5)
    assert torch.allclose(forward.ratio, forward.delta_e_inside / forward.delta_e_outside)


def test_a_mask_of_another_size_is_resized_as_documented():
    edited, target = random_images(2, 8, 12), random_images(2, 8, 12, seed=1)
    small = random_images(2, 4, 6, seed=2)[:, 0] > 0.5
    repeated = small.repeat_interleave(2, 1).repeat_interleave(2, 2)
    for got, expected in zip(locality(edited, target, small), locality(edited, target, repeated), strict=True):
        assert torch.equal(got, expected)
    ramp = torch.tensor([[[0.0, 1.0]]]).expand(2, 1, 2)  # bilinear at 12 columns: flat, 6 steps up, flat
    weights = ((torch.arange(12) + 0.5) / 6 - 0.5).clamp(0, 1).expand(2, 8, 12)
    for got, expected in zip(locality(edited, target, ramp), locality(edited, target, weights), strict=True):
        assert torch.allclose(got, expected, rtol=1e-5)


def test_empty_sides_are_nan_and_no_change_outside_is_inf():
    edited, target = random_images(4, 2, 2), random_images(4, 2, 2, seed=1)
    edited[2:] = target[2:]
    edited[3, :, 0, 0] = 1 - target[3, :, 0, 0].round()
    mask = torch.zeros(4, 2, 2, dtype=torch.bool)
    mask[1], mask[2:, 0, 0] = True, True
    got = locality(edited, target, mask)
    assert got.in_mse.isnan().tolist() == [True, False, False, False]
    assert got.delta_e_outside.isnan().tolist() == [False, True, False, False]
    assert got.ratio.isnan().tolist() == [True, True, True, False]
    assert got.ratio[3] == math.inf


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
@pytest.mark.parametrize("size", [1, 2, 3, 16])
def test_a_full_mask_leaves_nothing_outside_at_any_resolution(size, dtype):
    edited, target = random_images(1, 10, 10), random_images(1, 10, 10, seed=1)
    for fill in (0, 1):
        got = locality(edited, target, torch.full((1, size, size), fill, dtype=dtype))
        assert got.in_mse.isnan().item() == (fill == 0) and got.out_mse.isnan().item() == (fill == 1)


def test_empty_batches_give_empty_results():
    none = torch.zeros(0, 3, 4, 4)
    assert rgb_to_lab(none).shape == (0, 3, 4, 4) and delta_e(none, none).shape == (0, 4, 4)
    assert all(value.shape == (0,) for value in locality(none, none, torch.zeros(0, 2, 2)))


def test_the_roi_is_that_of_target_reference_or_union():
    target, reference = torch.tensor([[[True, True, False]]]), torch.tensor([[[True, False, False]]])
    assert roi(target, reference).tolist() == [[[True, True, False]]]
    assert roi(reference, target).tolist() == [[[True, True, False]]]
    assert roi(target, reference, "target") is target and roi(target, reference, "reference") is reference
    soft = torch.tensor([[[0.25, 0.5]]]), torch.tensor([[[0.75, 0.25]]])
    assert roi(*soft, mode="union").tolist() == [[[0.75, 0.5]]]
    with pytest.raises(ValueError, match="mode must be one of 'target', 'reference', 'union', got 'both'"):
        roi(target, reference, "both")


def test_grey_images_equal_rgb_images_with_equal_channels():
    edited, target = (random_images(2, 9, 11, seed)[:, :1] for seed in (0, 1))
    wide = edited.repeat(1, 3, 1, 1), target.repeat(1, 3, 1, 1)
    mask = torch.rand(2, 5, 5)
    assert torch.equal(rgb_to_lab(edited), rgb_to_lab(wide[0]))
    assert rgb_to_lab(edited)[:, 1:].abs().max() < 1e-9
    assert torch.equal(delta_e(edited, target), delta_e(*wide))
    lightness = rgb_to_lab(edited)[:, 0] - rgb_to_lab(target)[:, 0]
    torch.testing.assert_close(delta_e(edited, target), lightness.abs())
    assert torch.equal(torch.stack(locality(edited, target, mask)), torch.stack(locality(*wide, mask)))


def test_rgba_images_are_composited_over_white():
    images, alpha = random_images(2, 9, 11), random_images(2, 9, 11, 1)[:, :1]
    rgba = torch.cat((images, alpha), 1)
    torch.testing.assert_close(rgb_to_lab(rgba), rgb_to_lab(alpha * images + 1 - alpha))
    opaque, clear = (torch.cat((images, torch.full_like(alpha, a)), 1) for a in (1, 0))
    assert torch.equal(rgb_to_lab(opaque), rgb_to_lab(images))
    assert torch.equal(delta_e(clear, clear.flip(0)), torch.zeros(2, 9, 11, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"target must have shape \(2, 4, 9, 11\) .* got \(2, 3, 9, 11\)"):
        delta_e(rgba, images)


@pytest.mark.parametrize("function", [squared_error, delta_e, lambda a, b: locality(a, b, torch.ones(2, 4, 4))])
def test_pairs_that_do_not_fit_are_refused(function):
    images = torch.rand(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"target must have shape \(2, 3, 4, 4\) .* like edited, got \(1, 3, 4, 4\)"):
        function(images, images[:1])
    with pytest.raises(ValueError, match=r"target must have shape .* on cpu like edited, got .* on meta"):
        function(images, images.to("meta"))
    with pytest.raises(TypeError, match=r"target must be torch\.float32 like edited, got torch\.float64"):
        function(images, images.double())
    with pytest.raises(ValueError, match=r"edited must have shape \[N, C, H, W\] with .*, got \(3, 4, 4\)"):
        function(images[0], images)
    with pytest.raises(TypeError, match=r"target must be a floating-point tensor .*, got torch\.uint8"):
        function(images, images.byte())


def test_images_of_another_shape_or_type_are_refused():
    with pytest.raises(ValueError, match=r"images must have shape \[N, C, H, W\] with C = 1 .*, got \(2, 2, 4, 4\)"):
        rgb_to_lab(torch.rand(2, 2, 4, 4))
    with pytest.raises(TypeError, match=r"images must be a floating-point tensor .*, got list"):
        rgb_to_lab([[0.5]])  # type: ignore[arg-type]


def test_masks_that_do_not_fit_are_refused():
    images, mask = torch.rand(2, 3, 4, 4), torch.ones(2, 4, 4)
    with pytest.raises(ValueError, match=r"mask must have shape \[N, h, w\] with N = 2, got \(1, 4, 4\)"):
        locality(images, images, mask[:1])
    with pytest.raises(ValueError, match=r"mask must have shape \[N, h, w\] with N = 2, got \(4, 4\)"):
        locality(images, images, mask[0])
    with pytest.raises(TypeError, match=r"mask must be a bool or floating-point tensor .*, got torch\.int64"):
        locality(images, images, mask.long())
    for weight in (1.5, -0.5, math.nan):
        with pytest.raises(ValueError, match=rf"mask must hold weights in \[0, 1\], got {weight}"):
            locality(images, images, mask * weight)
    with pytest.raises(ValueError, match=r"reference_mask must have shape \(2, 4, 4\) .* like target_mask, got \(1, 4"):
        roi(mask, mask[:1])
    with pytest.raises(TypeError, match=r"reference_mask must be torch\.float32 like target_mask, got torch\.bool"):
        roi(mask, mask > 0.5)
    with pytest.raises(TypeError, match=r"target_mask must be a bool or floating-point tensor .*, got torch\.int64"):
        roi(mask.long(), mask.long())

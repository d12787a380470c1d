# SPDX-License-Identifier: Apache-2.0
"""Locality of an edit: CIELAB differences between two images, inside and outside a mask.

Colours are sRGB in [0, 1] (clamped) under D65. A grey image [1, H, W] is the RGB image with three equal channels, so
that a and b are zero up to rounding. An RGBA image is composited over white. Images are processed one by one in float32
(float64 for float64 images). Besides inputs and outputs, the functions need about 20 times the memory of one image, for
any N: 240 MB at 1024×1024.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .core.checks import check_alike, check_choice, check_shape, check_tensor
from .core.images import check_images, to_rgb

__all__ = ["Locality", "delta_e", "lab_locality", "locality", "rgb_to_lab", "roi", "squared_error"]

# Rows X, Y, Z of linear sRGB: IEC 61966-2-1 primaries, white (0.95047, 1, 1.08883).
_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_KNEE = 6 / 29  # CIE 15: a straight line replaces the cube root below t = (6/29)³
ROI_MODES = ("target", "reference", "union")


class Locality(NamedTuple):
    """Changes inside and outside the part of each edit. All have shape [N], float64, on the device of the images.

    A mean over no pixels is NaN: the mean inside for an empty mask, and outside for a full mask. The ratio is then NaN
    too.

    Attributes:
        in_mse: Mean of `squared_error` over the part. It is high for a good edit.
        out_mse: Mean of `squared_error` over the rest of the image. It is low for a good edit.
        delta_e_inside: Mean of `delta_e` over the part.
        delta_e_outside: Mean of `delta_e` over the rest of the image.
        ratio: `delta_e_inside / delta_e_outside`. It is inf if nothing changed outside, NaN if nothing changed at all.
    """

    in_mse: Tensor
    out_mse: Tensor
    delta_e_inside: Tensor
    delta_e_outside: Tensor
    ratio: Tensor


def rgb_to_lab(images: Tensor) -> Tensor:
    """Convert sRGB to CIELAB.

    X, Y, Z are the tristimulus values of linear sRGB, and Xn, Yn, Zn are the values of the white point. The function f
    is a cube root above (6/29)³ and linear below it::

        L = 116·f(Y/Yn) − 16
        a = 500·(f(X/Xn) − f(Y/Yn))
        b = 200·(f(Y/Yn) − f(Z/Zn))

    Args:
        images: Floating-point sRGB images of shape [N, C, H, W]: grey, RGB or RGBA. Values are clamped to [0, 1].

    Returns:
        L in 0..100, a in −87..99 and b in −108..95, of shape [N, 3, H, W]; float32 (float64 for float64 images).

    Raises:
        TypeError: If `images` is not a floating-point tensor.
        ValueError: If `images` does not have shape [N, C, H, W] with C = 1, 3 or 4.

    References:
        IEC 61966-2-1 (sRGB).
        CIE 15 (CIELAB, D65, 2° observer).

    Example:
        >>> import torch
        >>> from stylefast.locality import rgb_to_lab
        >>> rgb_to_lab(torch.ones(1, 3, 1, 1)).flatten().round().abs()  # white
        tensor([100.,   0.,   0.])
    """
    check_images("images", images)
    lab = images.new_empty(len(images), 3, *images.shape[2:], dtype=_working_dtype(images))
    for n, image in enumerate(images):
        lab[n] = _lab(image)
    return lab


def squared_error(edited: Tensor, target: Tensor) -> Tensor:
    """Compute the squared CIELAB error of every pixel, with all three channels on the scale 0..255.

    For the differences of L, a and b between the two images::

        error = ((2.55·ΔL)² + Δa² + Δb²) / (3·255²)

    Args:
        edited: Floating-point sRGB images in [0, 1] of shape [N, C, H, W]: grey, RGB or RGBA.
        target: Images of the same shape, dtype and device.

    Returns:
        Errors of shape [N, H, W]; float32 (float64 for float64 images).

    Raises:
        TypeError: If an argument is not a floating-point tensor, or the two differ in dtype.
        ValueError: If a shape is wrong, or the two differ in shape or device.

    References:
        Collins et al., "Editing in Style: Uncovering the Local Semantics of GANs", CVPR 2020, section 4. In-MSE and
        Out-MSE are means of this error.
    """
    return _per_pixel(_squared_error, edited, target)


def delta_e(edited: Tensor, target: Tensor) -> Tensor:
    """Compute the perceived colour difference of every pixel.

    A difference of 1 is just visible. Black and white differ by 100. For the differences of L, a and b between the two
    images::

        ΔE = (ΔL² + Δa² + Δb²)^½

    Args:
        edited: Floating-point sRGB images in [0, 1] of shape [N, C, H, W]: grey, RGB or RGBA.
        target: Images of the same shape, dtype and device.

    Returns:
        Colour differences of shape [N, H, W]; float32 (float64 for float64 images).

    Raises:
        TypeError: If an argument is not a floating-point tensor, or the two differ in dtype.
        ValueError: If a shape is wrong, or the two differ in shape or device.

    References:
        CIE 1976.
    """
    return _per_pixel(_delta_e, edited, target)


def locality(edited: Tensor, target: Tensor, mask: Tensor) -> Locality:
    """Measure each edit inside and outside its part.

    For an error e (`squared_error` and `delta_e`) and the weights w of the part, over the pixels p of an image::

        inside = Σ_p w_p·e_p / Σ_p w_p
        outside = Σ_p (1 − w_p)·e_p / Σ_p (1 − w_p)

    Args:
        edited: Floating-point sRGB images in [0, 1] of shape [N, C, H, W]: grey, RGB or RGBA.
        target: Images of the same shape, dtype and device.
        mask: Region of the part, such as the result of `roi`, of shape [N, h, w] for any h and w. A bool mask is
            resized to H×W by "nearest", and floating-point weights in [0, 1] by "bilinear".

    Returns:
        `Locality` with values of shape [N], float64.

    Raises:
        TypeError: If the images are not floating-point tensors or differ in dtype, or `mask` is neither bool nor
            floating-point.
        ValueError: If a shape or a device does not match, or a weight is NaN or outside [0, 1].

    References:
        Collins et al., "Editing in Style: Uncovering the Local Semantics of GANs", CVPR 2020, section 4.

    Example:
        >>> import torch
        >>> from stylefast.locality import locality
        >>> target, mask = torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.bool)
        >>> edited = target.clone()
        >>> mask[:, :4], edited[:, :, :4] = True, 1.0  # the upper half becomes white
        >>> locality(edited, target, mask).delta_e_outside
        tensor([0.], dtype=torch.float64)
    """
    _check_pair(edited, target)
    check_mask("mask", mask, n=len(edited))
    if mask.device != edited.device:
        raise ValueError(f"mask must be on {edited.device} like edited, got {mask.device}")
    return _measure((_lab(one) - _lab(other) for one, other in zip(edited, target, strict=True)), mask)


def lab_locality(difference: Tensor, mask: Tensor) -> Locality:
    """Measure each edit as `locality` does, from `rgb_to_lab(edited) - rgb_to_lab(target)`.

    Args:
        difference: Floating-point CIELAB differences of shape [N, 3, H, W].
        mask: Region of the part, as in `locality`, on the same device.

    Returns:
        `Locality` with values of shape [N], float64.

    Raises:
        TypeError: If `difference` is not a floating-point tensor, or `mask` is neither bool nor floating-point.
        ValueError: If a shape does not match, or a weight is NaN or outside [0, 1].
    """
    check_tensor("difference", difference)
    check_shape("difference", difference, N=None, C=3, H=None, W=None)
    check_mask("mask", mask, n=len(difference))
    return _measure(difference, mask)


def _measure(differences: Iterable[Tensor], mask: Tensor) -> Locality:
    means = torch.empty(len(mask), 4, dtype=torch.float64, device=mask.device)
    for n, difference in enumerate(differences):
        inside = resize_mask(mask[n : n + 1], difference.shape[1:])[0]  # [H, W]
        errors = torch.stack([_squared_error(difference), _delta_e(difference)])  # [2, H, W]
        for column, weight in ((0, inside), (1, 1 - inside)):
            means[n, column::2] = (errors * weight).sum((1, 2), dtype=torch.float64) / weight.sum(dtype=torch.float64)
    in_mse, out_mse, delta_e_inside, delta_e_outside = means.unbind(1)
    return Locality(in_mse, out_mse, delta_e_inside, delta_e_outside, delta_e_inside / delta_e_outside)


def roi(target_mask: Tensor, reference_mask: Tensor, mode: str = "union") -> Tensor:
    """Return the region of interest, the region that an edit may change.

    Args:
        target_mask: The part in the targets, of shape [N, H, W]; bool, or floating-point weights in [0, 1].
        reference_mask: The part in the references, of the same shape, dtype and device.
        mode: "target" or "reference" for one of the masks, or "union" for the maximum of both, which also covers a part
            that moves.

    Returns:
        Mask of shape [N, H, W] and the same dtype. For "target" and "reference" it is the argument itself, not a copy.

    Raises:
        TypeError: If a mask is neither bool nor floating-point, or the two differ in dtype.
        ValueError: If the masks differ in shape or device, a weight is NaN or outside [0, 1], or `mode` is unknown.
    """
    check_mask("target_mask", target_mask)
    check_mask("reference_mask", reference_mask)
    check_alike("reference_mask", reference_mask, "target_mask", target_mask)
    check_roi_mode(mode)
    if mode == "union":
        return torch.maximum(target_mask, reference_mask)
    return target_mask if mode == "target" else reference_mask


def check_roi_mode(mode: str) -> None:
    """Raise ValueError unless `mode` is a mode of `roi`."""
    check_choice("mode", mode, ROI_MODES)


def resize_mask(mask: Tensor, size: torch.Size) -> Tensor:
    """Resize a mask [N, h, w] to weights [N, H, W] in float32: bool by "nearest", floating-point by "bilinear"."""
    weights = mask[:, None].float()  # [N, 1, h, w]
    if mask.dtype == torch.bool:
        return interpolate(weights, size=size, mode="nearest")[:, 0]
    weights = interpolate(weights, size=size, mode="bilinear", align_corners=False)[:, 0]
    return weights.round(decimals=6)  # rounding keeps ones at one, so that a full mask has no outside


def check_mask(name: str, mask: Tensor, *, n: int | None = None) -> None:
    """Raise TypeError or ValueError unless `mask` is a bool mask or weights in [0, 1], of shape [N, h, w].

    If n is given, N must equal n.
    """
    if not isinstance(mask, Tensor) or not (mask.dtype == torch.bool or mask.is_floating_point()):
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{name} must be a bool or floating-point tensor [N, h, w], got {got}")
    check_shape(name, mask, N=n, h=None, w=None)
    if 0 in mask.shape[1:]:
        raise ValueError(f"{name} [N, h, w] must have h and w >= 1, got {tuple(mask.shape)}")
    is_outside = ~((mask >= 0) & (mask <= 1))
    if is_outside.any():
        raise ValueError(f"{name} must hold weights in [0, 1], got {mask[is_outside][0].item()}")


def _working_dtype(images: Tensor) -> torch.dtype:
    return torch.promote_types(images.dtype, torch.float32)


def _lab(image: Tensor) -> Tensor:
    rgb = to_rgb(image.to(_working_dtype(image)).clamp(0, 1))  # [3, H, W]
    red, green, blue = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    t = torch.stack([(r * red + g * green + b * blue) / (r + g + b) for r, g, b in _XYZ])  # white is (1, 1, 1)
    knee = _KNEE**3
    x, y, z = torch.where(t > knee, t.clamp_min(knee) ** (1 / 3), t / (3 * _KNEE**2) + 4 / 29)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def _squared_error(difference: Tensor) -> Tensor:
    lightness, a, b = difference
    return ((2.55 * lightness) ** 2 + a**2 + b**2) / (3 * 255**2)


def _delta_e(difference: Tensor) -> Tensor:
    if difference.requires_grad:
        return difference.norm(dim=0)  # its gradient is 0, and not NaN, where nothing differs
    return difference.square().sum(0).sqrt()  # on a CPU, torch's norm over the first dimension is 100 times as slow


def _per_pixel(error: Callable[[Tensor], Tensor], edited: Tensor, target: Tensor) -> Tensor:
    _check_pair(edited, target)
    errors = edited.new_empty(edited.shape[0], *edited.shape[2:], dtype=_working_dtype(edited))
    for n in range(len(edited)):
        errors[n] = error(_lab(edited[n]) - _lab(target[n]))
    return errors


def _check_pair(edited: Tensor, target: Tensor) -> None:
    check_images("edited", edited)
    check_images("target", target)
    check_alike("target", target, "edited", edited)

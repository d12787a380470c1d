# SPDX-License-Identifier: Apache-2.0
"""Generator whose styles and activations are read and edited by forward hooks; the network is never changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..core.checks import check_shape, check_tensor
from .engines import EngineSwitch
from .fingerprint import compute_fingerprint
from .image_checks import SEEDS, black_and_white, check_images
from .precision import network_dtype, refuse_failing_precision, settings
from .random_latents import z_of_seeds
from .session import HookSession, StopForward, check_all_used
from .site_hooks import match, probe, replace_scales
from .sites import Rule, Site, select_sites

MEAN_LATENTS = 4096  # number of latents that estimate the mean of w


class Generator(EngineSwitch):
    """A StyleGAN network with access to its styles, which can be read and replaced, and to the tensors that they scale.

    `copy.deepcopy` and `pickle` copy the network too, and the copy gives the same images.

    Args:
        network: Module that holds mapping and synthesis. It is set to evaluation mode and not changed otherwise.
        rules: Rules that find the style modules of the network.
        name: Name of the generator in messages and files.
        z_dim: Length of z.
        mapping: Function from z [N, z_dim] to w [N, D] or [N, rows, D].
        synthesis: Function from w to images [N, C, H, W], with fixed noise; grey (C = 1), RGB (C = 3) or RGBA (C = 4).
            For copies, both functions must be modules, methods of modules, or `functools.partial` of these.
        w_mean: Mean of w, [D] or [rows, D]. The default is an estimate from 4,096 fixed latents, made on first use.
        image_range: Values of the output for black and for white. The default, (-1, 1), warns if images contradict it.
        transform_row: Row of w that drives the input transform and no style (StyleGAN3).
        check: Whether to make seven images that show that styles, read and put back, give the network's own images.

    Raises:
        ValueError: If no module matches the rules, a style and its tensor differ in channels, the images do not have
            1, 3 or 4 channels, a module is compiled and would ignore hooks, or a check fails.
    """

    def __init__(
        self,
        network: nn.Module,
        rules: Iterable[Rule],
        *,
        name: str,
        z_dim: int,
        mapping: Callable[[Tensor], Tensor],
        synthesis: Callable[[Tensor], Tensor],
        w_mean: Tensor | None = None,
        image_range: tuple[float, float] | None = None,
        transform_row: int | None = None,
        check: bool = True,
    ) -> None:
        self.network: nn.Module = network.eval()
        self.name: str = name
        self.z_dim: int = z_dim
        self.transform_row: int | None = transform_row
        black, white = black_and_white(image_range)
        self._gain, self._offset = 1 / (white - black), -black / (white - black)
        self._dtype: torch.dtype = network_dtype(network)
        self._mapping = mapping
        self._synthesis = synthesis
        self._known_w_mean = w_mean
        self._session = HookSession(network, name)
        self.device: torch.device = next(iter((*network.parameters(), *network.buffers()))).device
        site_hooks = match(network, tuple(rules))
        with self._session.open(), refuse_failing_precision(network):
            w = self._map(SEEDS[-1:]).to(self._dtype).clone(memory_format=torch.contiguous_format)
            sites, image = probe(site_hooks, synthesis, w)
        self.sites: tuple[Site, ...] = tuple(sites)
        self.style_width: int = sites[-1].stop
        self.w_shape: tuple[int, ...] = tuple(w.shape[1:])
        self.image_channels: int = image.shape[1]
        self.image_size: tuple[int, int] = (image.shape[-2], image.shape[-1])
        self._site_hooks = [(site, site_hooks[site.name]) for site in sites]
        if check:
            check_images(self, self._run, self._images, image, assume_range=image_range is None)

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """sha256 of the site table ("sites") and of names, dtypes, shapes and bytes of all tensors ("weights")."""
        return compute_fingerprint(self.network, self.sites)

    @property
    def precision(self) -> dict[str, Any]:
        """Settings that affect the pixels: "tf32" on a GPU, "float16_resolutions" if any. Manifests store them."""
        return settings(self.network, self.device)

    @cached_property
    def w_mean(self) -> Tensor:
        """Mean of w, [D] or [rows, D], towards which truncation moves latents."""
        if self._known_w_mean is not None:
            return self._known_w_mean
        with self._session.open():
            z = torch.from_numpy(np.random.RandomState(0).randn(MEAN_LATENTS, self.z_dim)).float().to(self.device)
            return self._mapping(z.to(self._dtype)).double().mean(dim=0).float()

    def latents(self, seeds: Iterable[int], *, truncation: float = 1.0) -> Tensor:
        """Map seeds to w as NVlabs do: `z = RandomState(seed).randn(1, z_dim)`, `w <- lerp(w_mean, w, truncation)`.

        Args:
            seeds: Integers in `[0, 2**32)`.
            truncation: Truncation ψ: 0 gives the mean of w, 1 keeps w.

        Returns:
            Latents w of shape [N, D] or [N, rows, D], float32.

        Raises:
            ValueError: If a seed is out of range or `truncation` is not finite.
        """
        if not math.isfinite(truncation):
            raise ValueError(f"truncation must be a finite number, got {truncation}")
        with self._session.open():
            w = self._map(seeds)
        return w if truncation == 1 else self.w_mean.lerp(w, truncation)

    def styles(self, w: Tensor) -> Tensor:
        """Compute the styles of all sites, end to end, as the style modules return them, without biases.

        Args:
            w: Latents of shape [N, D] or [N, rows, D], as `latents` returns them.

        Returns:
            Styles of shape [N, S], in the dtype of the style modules.
        """
        self.check("w", w)
        scales: dict[str, Tensor] = {}

        def keep(name: str, scale: Tensor) -> None:
            scales[name] = scale.clone()
            if len(scales) == len(self.sites):
                raise StopForward

        with self._session.open() as stack:
            for site, hooks in self._site_hooks:
                stack.callback(hooks.on_scale(partial(keep, site.name)).remove)
            rows = (w if w.ndim == 3 else w[:, None]).to(self._dtype)  # [N, rows, D]
            for _, hooks in self._site_hooks:
                if hooks.row is not None:
                    hooks.style(rows[:, hooks.row])
            self._run(w)
            check_all_used({site.name for site in self.sites} - scales.keys())
        return torch.cat([scales[site.name] for site in self.sites], dim=1)

    def visit(
        self,
        w: Tensor,
        callback: Callable[[str, Tensor], None],
        sites: Iterable[str] | None = None,
        *,
        styles: Tensor | None = None,
        image: bool = False,
    ) -> Tensor | None:
        """Run synthesis and pass each distinct tensor of the requested sites to a callback, without storing any.

        The pass ends at the last requested tensor unless the image is requested. A tensor belongs to the network and is
        valid only inside the callback, because later layers may overwrite it. Its memory layout is the network's own.

        Args:
            w: Latents of shape [N, D] or [N, rows, D]. With `styles`, a single row may serve all images.
            callback: Called with (key, tensor [N, C, H, W]) once per distinct `Site.tensor`, in forward order.
            sites: Names of the requested sites. None requests all.
            styles: Styles of shape [N, S] to use instead of the styles of w.
            image: Whether to run to the end and return the image.

        Returns:
            Images of shape [N, C, H, W], float32 in [0, 1], if `image` is True; else None.

        Raises:
            TypeError: If `w` or `styles` is not a floating-point tensor.
            ValueError: If `w` or `styles` has another shape or device, or a site is unknown.
            RuntimeError: If the callback runs the generator that calls it.
        """
        pending = {site.tensor for site in self.select(sites)}
        self.check("w", w)
        if styles is not None:
            w = self._paired(w, styles)

        def read(key: str, tensor: Tensor) -> None:
            callback(key, tensor)
            pending.remove(key)
            if not pending and not image:
                raise StopForward

        with self._session.open() as stack:
            unused = set() if styles is None else replace_scales(self._site_hooks, styles, stack)
            for site, hooks in self._site_hooks:
                if site.name in pending:
                    stack.callback(hooks.on_tensor(partial(read, site.name)).remove)
            if pending or image:
                raw = self._run(w)
                check_all_used(pending | unused)
                return self._images(raw)
        return None

    def activations(self, w: Tensor, sites: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Collect the distinct tensors of the requested sites.

        Args:
            w: Latents of shape [N, D] or [N, rows, D].
            sites: Names of the requested sites. None requests all and holds every layer of the network in memory.

        Returns:
            Contiguous copies of shape [N, C, H, W] by `Site.tensor`, in forward order.
        """
        tensors: dict[str, Tensor] = {}

        def keep(key: str, tensor: Tensor) -> None:
            tensors[key] = tensor.clone(memory_format=torch.contiguous_format)

        self.visit(w, keep, sites)
        return tensors

    def synthesize(self, styles: Tensor, w: Tensor) -> Tensor:
        """Run synthesis with the given styles at every site. The noise is the same in every run.

        Args:
            styles: Styles of shape [N, S].
            w: Latents of shape [N, D] or [N, rows, D], or one row for all images. They drive everything that is not a
                style, such as the bias of StyleGAN1 and the input transform of StyleGAN3.

        Returns:
            Images of shape [N, C, H, W], float32 in [0, 1].
        """
        if self._engine is not None and len(styles):
            rows, begin = self._paired(w, styles), 0
            shape = len(styles), self.image_channels, *self.image_size
            images = torch.empty(shape, dtype=torch.float32, device=self.device)
            with self._session.open():
                if (engine := self._engine) is not None:  # another thread may have replaced it meanwhile
                    for raw in engine(self._synthesis, styles.to(self._dtype), rows):
                        self._images(raw, images[begin : begin + len(raw)])
                        begin += len(raw)
                    return images
        return cast(Tensor, self.visit(w, lambda key, tensor: None, (), styles=styles, image=True))

    def _paired(self, w: Tensor, styles: Tensor) -> Tensor:
        """Return w with one row per row of styles."""
        self.check("w", w)
        self.check("styles", styles)
        if len(w) not in (1, len(styles)):
            raise ValueError(f"w must have N = {len(styles)} rows to match styles [N, S], or one, got {len(w)}")
        return w.expand(len(styles), *self.w_shape)

    def _run(self, w: Tensor) -> Tensor:
        return self._synthesis(w.to(self._dtype))

    def _images(self, raw: Tensor, out: Tensor | None = None) -> Tensor:
        """Convert the network's output to float32 images in [0, 1]. They are new, or written into `out`."""
        return torch.mul(raw.float(), self._gain, out=out).add_(self._offset).clamp_(0, 1).contiguous()

    def _map(self, seeds: Iterable[int]) -> Tensor:
        return self._mapping(z_of_seeds(seeds, self.z_dim).to(self.device, self._dtype)).float()

    def select(self, names: Iterable[str] | None) -> list[Site]:
        """Return the sites with the given names, in the order of the names, or all. Unknown names raise ValueError."""
        return select_sites(self.sites, names)

    def check(self, argument: Literal["w", "styles"], tensor: Tensor) -> None:
        """Raise TypeError or ValueError unless the tensor fits this generator as `w` or as `styles`."""
        letters = ("rows", "D")[-len(self.w_shape) :]
        lengths = dict(zip(letters, self.w_shape, strict=True)) if argument == "w" else {"S": self.style_width}
        check_tensor(argument, tensor)
        check_shape(argument, tensor, N=None, **lengths)
        if tensor.device != self.device:
            raise ValueError(f"{argument} must be on {self.device} like {self.name}, got {tensor.device}")

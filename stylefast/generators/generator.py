# SPDX-License-Identifier: Apache-2.0
"""A generator read and edited by forward hooks: the wrapped network is never changed."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from .compiled import Compiled, refuse_compiled
from .site_hooks import match, probe
from .sites import Rule, Site

MEAN_LATENTS = 4096


class _Stop(Exception):
    """Ends a forward pass whose remaining layers nobody asked for."""


class Generator:
    """A StyleGAN whose styles can be read, exchanged and paired with the tensors that they scale.

    Args:
        network: the module that holds mapping and synthesis; set to evaluation mode, otherwise left as it is.
        rules: where the family keeps its style modules.
        name: what to call the generator in messages and files.
        z_dim: length of z.
        mapping: z [N, z_dim] -> w [N, D] or [N, rows, D].
        synthesis: w -> image [N, 3, H, W], with noise fixed.
        w_mean: mean of w [D] or [rows, D]; default: estimated from 4,096 fixed latents when first needed.
        image_range: what the network gives for black and for white.
        transform_row: the row of w that drives a transform of the network's input and no style (StyleGAN3).

    Raises:
        ValueError: no module matches the rules, a style and its tensor differ in channels, the images are not of
            three channels, or a module is compiled, which would let hooks be ignored.
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
        image_range: tuple[float, float] = (-1.0, 1.0),
        transform_row: int | None = None,
    ) -> None:
        self.network = network.eval()
        self.name = name
        self.z_dim = z_dim
        self.transform_row = transform_row
        self._gain = 1 / (image_range[1] - image_range[0])
        self._offset = -image_range[0] * self._gain
        self._mapping = mapping
        self._synthesis = synthesis
        self._given_mean = w_mean
        self._lock = threading.RLock()
        self._running = False
        self._compiled: Compiled | None = None
        self.device = next(iter((*network.parameters(), *network.buffers()))).device
        wires = match(network, tuple(rules))
        with self._session():
            w = self._map([0]).clone(memory_format=torch.contiguous_format)
            sites, image = probe(wires, synthesis, w)
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"synthesis must give images [N, 3, H, W], got {tuple(image.shape)}")
        self.sites: tuple[Site, ...] = tuple(sites)
        self.style_width = sites[-1].stop
        self.w_shape: tuple[int, ...] = tuple(w.shape[1:])
        self.image_size: tuple[int, int] = (image.shape[-2], image.shape[-1])
        self._wires = [(site, wires[site.name]) for site in sites]

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """sha256 over the site table ("sites") and over names, types, shapes and bytes of all tensors ("weights")."""
        table = json.dumps([asdict(site) for site in self.sites])
        weights = hashlib.sha256()
        for name, tensor in (*self.network.named_parameters(), *self.network.named_buffers()):
            weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return {"sites": hashlib.sha256(table.encode()).hexdigest(), "weights": weights.hexdigest()}

    @property
    def precision(self) -> dict[str, bool]:
        """{"tf32": whether cuDNN may compute float32 convolutions in TF32}, as records tell it; empty on a CPU."""
        if self.device.type != "cuda":
            return {}
        try:
            return {"tf32": torch.backends.cudnn.allow_tf32}
        except RuntimeError:  # torch's newer setting is in use, and then refuses the older
            conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
            return {"tf32": conv.fp32_precision == "tf32"}

    @cached_property
    def w_mean(self) -> Tensor:
        """The mean of w that truncation pulls towards, [D] or [rows, D]."""
        if self._given_mean is not None:
            return self._given_mean
        with self._session():
            z = torch.from_numpy(np.random.RandomState(0).randn(MEAN_LATENTS, self.z_dim)).float().to(self.device)
            return self._mapping(z).double().mean(dim=0).float()

    def latents(self, seeds: Iterable[int], *, truncation: float = 1.0) -> Tensor:
        """Map seeds to w: z = RandomState(seed).randn(1, z_dim), w <- lerp(w_mean, w, truncation), as NVlabs do it.

        Args:
            seeds: integers in [0, 2**32).
            truncation: 1 leaves w as it is, 0 gives the mean.

        Returns:
            w, float32 [N, D] or [N, rows, D].

        Raises:
            ValueError: a seed out of range, or a truncation that is not finite.
        """
        if not math.isfinite(truncation):
            raise ValueError(f"truncation must be a finite number, got {truncation}")
        with self._session():
            w = self._map(seeds)
        return w if truncation == 1 else self.w_mean.lerp(w, truncation)

    def styles(self, w: Tensor) -> Tensor:
        """Compute all sites' styles, end to end, as the style modules give them (a bias is left out).

        Args:
            w: [N, D] or [N, rows, D], as ``latents`` gives it.

        Returns:
            Flat styles [N, S].
        """
        self.check("w", w)
        scales: dict[str, Tensor] = {}

        def record(name: str, scale: Tensor) -> None:
            scales[name] = scale.clone()
            if len(scales) == len(self.sites):
                raise _Stop

        with self._session() as hooks, suppress(_Stop):
            for site, wires in self._wires:
                hooks.callback(wires.on_scale(partial(record, site.name)).remove)
            rows = w if w.ndim == 3 else w[:, None]  # [N, rows, D]
            for _, wires in self._wires:
                if wires.row is not None:
                    wires.style(rows[:, wires.row])
            self._synthesis(w)
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
        """Run synthesis and hand over each distinct tensor of the wanted sites as it appears; nothing is retained.

        The pass ends at the last wanted tensor unless the image is asked for. A tensor belongs to the network and is
        good only inside the callback: layers may overwrite it afterwards. Its layout is the network's own.

        Args:
            w: [N, D] or [N, rows, D]; with ``styles`` also a single row for all.
            callback: called with (key, tensor [N, C, H, W]) once for each distinct ``Site.tensor``, in forward order.
            sites: names of the wanted sites; default all.
            styles: flat styles [N, S] to use instead of those of w.
            image: go on to the end and return the image.

        Returns:
            Images [N, 3, H, W], float32 in [0, 1], if ``image``; else None.

        Raises:
            ValueError: w or styles of another shape or on another device, or an unknown site.
            RuntimeError: the callback runs the generator that is calling it.
        """
        waiting = {site.tensor for site in self.select(sites)}
        self.check("w", w)
        if styles is not None:
            w = self._paired(w, styles)

        def read(key: str, tensor: Tensor) -> None:
            callback(key, tensor)
            waiting.remove(key)
            if not waiting and not image:
                raise _Stop

        with self._session() as hooks, suppress(_Stop):
            for site, wires in self._wires:
                if styles is not None:
                    hooks.callback(wires.replace_scale(styles[:, site.slice]).remove)
                if site.name in waiting:
                    hooks.callback(wires.on_tensor(partial(read, site.name)).remove)
            if waiting or image:
                return self._images(self._synthesis(w))
        return None

    def activations(self, w: Tensor, sites: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Collect the distinct tensors of the wanted sites.

        Args:
            w: [N, D] or [N, rows, D].
            sites: names of the wanted sites; default all, which holds every layer of the network in memory.

        Returns:
            ``Site.tensor`` -> contiguous copy [N, C, H, W], in forward order.
        """
        found: dict[str, Tensor] = {}

        def keep(key: str, tensor: Tensor) -> None:
            found[key] = tensor.clone(memory_format=torch.contiguous_format)

        self.visit(w, keep, sites)
        return found

    def synthesize(self, styles: Tensor, w: Tensor) -> Tensor:
        """Run synthesis with the given styles at every site, with the same noise as every other run.

        Args:
            styles: flat styles [N, S].
            w: [N, D] or [N, rows, D], or one row for all: drives what is no style, such as the bias of StyleGAN1 and
                the input transform of StyleGAN3.

        Returns:
            Images [N, 3, H, W], float32 in [0, 1].
        """
        if self._compiled is not None and len(styles):
            w = self._paired(w, styles)
            with self._session():
                return torch.cat([self._images(raw) for raw in self._compiled(styles, w)])
        images = self.visit(w, lambda key, tensor: None, (), styles=styles, image=True)
        assert images is not None
        return images

    def compile(self, batch_size: int = 4, **options: Any) -> None:
        """Has `synthesize` run compiled from now on, in batches of one size, of which the last is filled up.

        The first batch compiles, and all that follow take what it made, whatever their styles. All other methods run
        as before, and so does the network for its other users: the hooks that stay do nothing then. A network that
        breaks graphs compiles layer by layer: torch._dynamo.config.recompile_limit must then exceed their number.

        Args:
            batch_size: images a batch.
            options: of torch.compile, such as ``mode="reduce-overhead"`` for CUDA graphs.

        Raises:
            ValueError: batch_size below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        if self._compiled is not None:
            self._compiled.remove()
        styles = torch.empty(batch_size, self.style_width, device=self.device)
        w = torch.empty(batch_size, *self.w_shape, device=self.device)
        self._compiled = Compiled(self._wires, self._synthesis, styles, w, options)

    def _paired(self, w: Tensor, styles: Tensor) -> Tensor:
        """One row of w for each row of styles."""
        self.check("w", w)
        self.check("styles", styles)
        if len(w) not in (1, len(styles)):
            raise ValueError(f"w must have N = {len(styles)} rows to match styles [N, S], or one, got {len(w)}")
        return w.expand(len(styles), *self.w_shape)

    def _images(self, raw: Tensor) -> Tensor:
        """What the network gives, as new float32 images in [0, 1]."""
        return raw.float().mul(self._gain).add_(self._offset).clamp_(0, 1).contiguous()

    def _map(self, seeds: Iterable[int]) -> Tensor:
        z = np.array([np.random.RandomState(seed).randn(self.z_dim) for seed in seeds], np.float32)
        return self._mapping(torch.from_numpy(z.reshape(-1, self.z_dim)).to(self.device))

    @contextmanager
    def _session(self) -> Iterator[ExitStack]:
        """One run at a time; hooks put on the stack are removed whatever happens."""
        refuse_compiled(self.network)
        with self._lock:
            if self._running:
                raise RuntimeError(f"{self.name} is running: a callback cannot use the generator that calls it")
            self._running = True
            try:
                with torch.no_grad(), ExitStack() as hooks:
                    yield hooks
            finally:
                self._running = False

    def select(self, names: Iterable[str] | None) -> list[Site]:
        """The sites of these names (None: all), in their order. Raises ValueError with all names for an unknown one."""
        table = {site.name: site for site in self.sites}
        names = table if names is None else list(names)
        unknown = [name for name in names if name not in table]
        if unknown:
            raise ValueError(f"sites must be among {', '.join(table)}, got {', '.join(map(str, unknown))}")
        return [table[name] for name in names]

    def check(self, argument: Literal["w", "styles"], tensor: Tensor) -> None:
        """Raises TypeError or ValueError unless the tensor is what this generator takes as w or as styles."""
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{argument} must be a tensor of floating-point numbers, got {kind}")
        shape = self.w_shape if argument == "w" else (self.style_width,)
        letters = ("rows", "D")[-len(shape) :] if argument == "w" else ("S",)
        if tensor.ndim != 1 + len(shape) or tensor.shape[1:] != shape or tensor.device != self.device:
            expected = ", ".join(f"{letter} = {length}" for letter, length in zip(letters, shape, strict=True))
            raise ValueError(
                f"{argument} must have shape [N, {', '.join(letters)}] with {expected} on {self.device}, "
                f"got {tuple(tensor.shape)} on {tensor.device}"
            )

# SPDX-License-Identifier: Apache-2.0
"""The part of a generator that chooses the engine of `synthesize`, and checks its images."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ...core.checks import check_choice, check_integer
from ...core.text import shortened
from ..image_checks import VISIBLE
from ..session import HookSession
from ..site_hooks import SiteHooks
from ..sites import Site
from .engine import ENGINES, NAMES, Engine, EngineUse, Target, make_compiled

ROUNDS = 3  # timed calls per engine; engines take turns
MIN_SPEEDUP = 1.1  # of an engine that "auto" takes; a smaller one can be chance


class EngineSwitch(ABC):
    """Base class of generators that can use engines."""

    name: str
    device: torch.device
    w_shape: tuple[int, ...]
    network: torch.nn.Module
    _dtype: torch.dtype
    _session: HookSession
    _site_hooks: list[tuple[Site, SiteHooks]]
    _engine: Engine | None = None
    _engine_use: EngineUse = EngineUse()

    @abstractmethod
    def latents(self, seeds: Iterable[int]) -> Tensor: ...

    @abstractmethod
    def styles(self, w: Tensor) -> Tensor: ...

    @abstractmethod
    def synthesize(self, styles: Tensor, w: Tensor) -> Tensor: ...

    @property
    def engine(self) -> EngineUse:
        """Engine of `synthesize`: its name, and its largest difference and speed-up if they were measured."""
        return self._engine_use

    def use_engine(self, engine: str, *, batch_size: int | None = None) -> None:
        """Choose the engine that runs `synthesize`. All other methods run the network directly.

        Another engine than "eager" makes two images, which must differ by less than half a step of 8 bits from those of
        "eager".

        Args:
            engine: "eager" runs the network. "native" runs random-face, or a converted StyleGAN2 on a CPU, with fused
                ops. "compile" runs the network under `torch.compile`, as `compile` does. "openvino" runs a graph of it
                in OpenVINO on the CPU, image by image. "auto" times "eager" and the engines that suit the device
                ("native" and "openvino" on a CPU, "compile" on a GPU), and takes the fastest.
            batch_size: Images per batch of "compile", as in `compile`. None is one image on a CPU and four on a GPU.

        Raises:
            ValueError: If `batch_size` is not an integer >= 1, or the engine is unknown, cannot run this network, or
                makes other images. In the last two cases, the generator then uses "eager".
        """
        check_choice("engine", engine, NAMES)
        target = self._target(batch_size)
        self._install(None, EngineUse())
        if engine == "auto":
            self._use_fastest(target)
        elif engine != "eager":
            self._use_checked(engine, target)

    def compile(self, batch_size: int = 4, **options: Any) -> None:
        """Compile `synthesize`, which then runs in batches of a fixed size. The last batch is padded.

        The first batch is compiled, and all further batches reuse the result, whatever their styles. Other methods and
        users of the network are not affected, because the hooks stay inactive for them. A network with graph breaks is
        compiled layer by layer. `torch._dynamo.config.recompile_limit` must then exceed the number of layers. A copy of
        the generator compiles at its first call. The engine of the generator is "compile" then, unchecked.

        Args:
            batch_size: Images per batch.
            **options: Arguments of `torch.compile`, such as `mode="reduce-overhead"` for CUDA graphs.

        Raises:
            ValueError: If `batch_size` is not an integer >= 1.
        """
        target = self._target(batch_size)
        self._install(None, EngineUse())
        zeros = torch.zeros(1, *self.w_shape, dtype=torch.float32, device=self.device)
        self.synthesize(self.styles(zeros), zeros)  # raises if synthesis does not run the network
        self._install(make_compiled(target, **options), EngineUse("compile", difference=None, speedup=None))

    def _target(self, batch_size: int | None) -> Target:
        batch_size = None if batch_size is None else check_integer("batch_size", batch_size, 1)
        return Target(self.network, self._site_hooks, self.w_shape, self._dtype, self.device, batch_size)

    def _install(self, engine: Engine | None, use: EngineUse) -> None:
        with self._session.open():  # waits for other threads, whose engine must not be removed while it runs
            if self._engine is not None and self._engine is not engine:
                self._engine.remove()
            self._engine, self._engine_use = engine, use

    def _use_checked(self, name: str, target: Target) -> None:
        """Use an engine, and measure its difference. Raise ValueError if it cannot be used."""
        if (reason := ENGINES[name].refusal(target)) is not None:
            raise ValueError(f"engine must be able to run {self.name}, got {name}: {reason}")
        # The styles of one image with the latent of another show that the engine reads both.
        w = self.latents((0, 1))
        styles = self.styles(w).flip(0)
        expected = self.synthesize(styles, w)
        try:
            self._install(ENGINES[name].make(target), EngineUse(name, None, None))
            difference = float((self.synthesize(styles, w) - expected).abs().max())
        except (MemoryError, torch.OutOfMemoryError):
            self._install(None, EngineUse())
            raise
        except Exception as error:
            self._install(None, EngineUse())
            reason = shortened(" ".join(str(error).split())) or type(error).__name__
            raise ValueError(f"engine must be able to run {self.name}, got {name}: {reason}") from error
        if not difference < VISIBLE:
            self._install(None, EngineUse())
            raise ValueError(
                f"engine must make the images of {self.name}, got {name} with differences of up to {difference:.2g} of "
                "the image range"
            )
        self._engine_use = EngineUse(name, difference, None)

    def _use_fastest(self, target: Target) -> None:
        """Use the fastest engine that suits the device and makes the same images."""
        candidates: list[tuple[Engine | None, EngineUse]] = [(None, EngineUse())]
        for name, kind in ENGINES.items():
            if not kind.is_candidate(self.device):
                continue
            try:
                self._use_checked(name, target)
            except (ValueError, MemoryError, torch.OutOfMemoryError):
                continue
            candidates.append((self._engine, self._engine_use))
            self._engine, self._engine_use = candidates[0]  # keeps the candidate, unlike `_install`
        n = 1 if self.device.type == "cpu" else target.fixed_batch_size
        times = self._time([engine for engine, _ in candidates], n) if len(candidates) > 1 else [1.0]
        best = times.index(min(times))
        best = best if times[0] >= MIN_SPEEDUP * times[best] else 0
        with self._session.open():  # as in `_install`
            for i, (engine, _) in enumerate(candidates):
                if engine is not None and i != best:
                    engine.remove()
        engine, use = candidates[best]
        self._install(engine, EngineUse(use.name, use.difference, times[0] / times[best]))

    def _time(self, engines: list[Engine | None], n: int) -> list[float]:
        """Return the shortest time of each engine in seconds for n images."""
        w = self.latents(range(n))
        styles = self.styles(w)
        times: list[list[float]] = [[] for _ in engines]
        for _ in range(ROUNDS):
            for engine, seconds in zip(engines, times, strict=True):
                self._engine = engine
                start = time.perf_counter()
                self.synthesize(styles, w).cpu()
                seconds.append(time.perf_counter() - start)
        self._engine = None
        return [min(seconds) for seconds in times]

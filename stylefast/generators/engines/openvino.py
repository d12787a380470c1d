# SPDX-License-Identifier: Apache-2.0
"""Engine "openvino": a graph of the network, traced with the styles as an input, on the CPU in float32.

Images are computed one by one, so that an image does not depend on its batch.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from ..session import check_all_used
from ..site_hooks import SiteHooks, replace_scales
from ..sites import Site

FORKED = "OpenVINO cannot run in a fork of a process that has used it; start processes with the method spawn instead"
_processes: set[int] = set()  # ids of this process and those that it was forked from, if they have used OpenVINO


def refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return the reason why OpenVINO cannot run a network, or None."""
    if device.type != "cpu":
        return f"it runs on the CPU, and the network is on {device}"
    if dtype != torch.float32:
        return f"it computes in float32, and the network is in {str(dtype).removeprefix('torch.')}"
    if find_spec("openvino") is None:
        return "OpenVINO is not installed; `pip install openvino` installs it"
    if _is_forked():
        return FORKED
    return None


def _is_forked() -> bool:
    """Return whether OpenVINO would wait forever for threads that only the parent of this process has."""
    return bool(_processes) and os.getpid() not in _processes


def _import_openvino() -> None:
    """Import OpenVINO without its telemetry, which would report the import over the network."""
    if "openvino" in sys.modules:
        return
    name = "openvino_telemetry"
    telemetry = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]  # OpenVINO uses a stub where the import fails
    try:
        import_module("openvino")
    finally:
        del sys.modules[name]
        if telemetry is not None:
            sys.modules[name] = telemetry


class OpenVINOSynthesis:
    """Synthesis of single images by OpenVINO, with as many threads as torch has.

    The graph is built at the first call, and again if the number of threads has changed. A copy builds its own.

    Args:
        network: Network that synthesis runs.
        site_hooks: All sites, each with its hooks.
        w_shape: Shape of one latent.
    """

    def __init__(self, network: nn.Module, site_hooks: list[tuple[Site, SiteHooks]], w_shape: tuple[int, ...]) -> None:
        self._network, self._site_hooks, self._w_shape = network, site_hooks, w_shape
        self._request: Any = None
        self._threads = 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_request": None, "_threads": 0}

    def __call__(self, synthesis: Callable[[Tensor], Tensor], styles: Tensor, w: Tensor) -> Iterator[Tensor]:
        """Yield the output of synthesis for each row of the styles [N, S] and w [N, ...].

        Raises:
            RuntimeError: If this process is a fork of one that has used OpenVINO.
        """
        if _is_forked():
            raise RuntimeError(FORKED)
        if self._threads != (threads := torch.get_num_threads()):
            self._request = None  # frees the memory before it is needed again
            self._request = self._build(synthesis, threads)
            self._threads = threads
        for row in zip(styles.split(1), w.split(1), strict=True):
            inputs = [tensor.float().contiguous().numpy() for tensor in row]
            yield torch.from_numpy(self._request.infer(inputs, share_inputs=True, share_outputs=True)[0])

    def remove(self) -> None:
        """Free the graph. The network has no hooks of this engine."""
        self._request, self._threads = None, 0

    def _build(self, synthesis: Callable[[Tensor], Tensor], threads: int) -> Any:
        _processes.add(os.getpid())
        _import_openvino()
        from openvino import Core
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

        width = self._site_hooks[-1][0].stop
        inputs = tuple(torch.ones(1, *shape, dtype=torch.float32, device="cpu") for shape in ((width,), self._w_shape))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes become constants, as intended
            traced = torch.jit.trace(_FromStyles(self._network, self._site_hooks, synthesis), inputs, check_trace=False)
            decoder = TorchScriptPythonDecoder(traced, example_input=inputs)  # the conversion needs it alive
            frontend = FrontEndManager().load_by_framework("pytorch")
            model = frontend.convert(frontend.load(decoder))
        model.reshape({i: list(tensor.shape) for i, tensor in enumerate(inputs)})
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # several processes would share one core
        }
        return Core().compile_model(model, "CPU", options).create_infer_request()


class _FromStyles(nn.Module):
    """Synthesis from styles [1, S] and w [1, ...], which `torch.jit.trace` records.

    If the network has a method `from_styles`, a form of it that graph compilers run fast, this method is recorded;
    otherwise, its own code with hooks that replace the styles.
    """

    def __init__(
        self,
        network: nn.Module,
        site_hooks: list[tuple[Site, SiteHooks]],
        synthesis: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.network = network
        self._site_hooks = site_hooks
        self._synthesis = synthesis
        self.eval()

    def forward(self, styles: Tensor, w: Tensor) -> Tensor:
        if (from_styles := getattr(self._synthesis, "from_styles", None)) is not None:
            return from_styles({site.name: styles[:, site.slice] for site, _ in self._site_hooks})
        with ExitStack() as stack:
            unused = replace_scales(self._site_hooks, styles, stack)
            image = self._synthesis(w)
            check_all_used(unused)
        return image

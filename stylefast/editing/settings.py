# SPDX-License-Identifier: Apache-2.0
"""Fields of entries that follow from the generator, and the hash of all other inputs of the pixels."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

from ..generators import Generator


def pixel_settings(generator: Generator, identity: list[Any]) -> dict[str, Any]:
    """Return the settings of images: the precision, the engine, and "job", a hash of an identity.

    Args:
        generator: Generator of the images. The engine `eager` is not recorded.
        identity: JSON-serialisable description of every other input that determines the pixels.
    """
    digest = blake2b(json.dumps(identity).encode(), digest_size=8).hexdigest()
    name = generator.engine.name
    engine = {} if name == "eager" else {"engine": name}
    return {**generator.precision, **engine, "job": digest}


def engine_notes(generator: Generator) -> dict[str, Any]:
    """Return the measured difference of the engine, which varies with the machine and is not compared."""
    engine = generator.engine
    return {} if engine.name == "eager" else {"engine_difference": engine.difference}

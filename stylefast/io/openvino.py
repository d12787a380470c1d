# SPDX-License-Identifier: Apache-2.0
"""Constants of OpenVINO IR v10 networks, read as data."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np

_DTYPES = {"f32": "<f4", "f16": "<f2", "i64": "<i8", "i32": "<i4"}


class _PlainBuilder(ElementTree.TreeBuilder):
    """Builder of a tree that refuses document type declarations, whose entities could expand without bound."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("document type declarations are refused")


def read_ir(xml: bytes, weights: bytes, source: str) -> dict[str, np.ndarray]:
    """Read the floating-point constants of an OpenVINO IR v10 network, in the graph's order.

    Args:
        xml: Contents of the ``.xml`` file, the graph.
        weights: Contents of the ``.bin`` file, into which the ``Const`` layers of the graph point.
        source: Name of the file for error messages.

    Returns:
        Dictionary from the name of each constant to a read-only floating-point array with the stored shape.

    Raises:
        ValueError: If `xml` is not such a graph or has a document type declaration, or if a constant lies outside
            `weights`.
    """
    try:
        root = ElementTree.fromstring(xml, ElementTree.XMLParser(target=_PlainBuilder()))
        if root.tag != "net" or root.get("version") != "10":
            raise ValueError(f"the root must be <net version='10'>, got <{root.tag} version={root.get('version')!r}>")
        layers = [layer for layer in root.iterfind("layers/layer") if layer.get("type") == "Const"]
        constants = {layer.attrib["name"]: _constant(layer.find("data"), weights) for layer in layers}
        if len(constants) != len(layers):
            raise ValueError("two constants have the same name")
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise ValueError(f"{source} is not a readable OpenVINO IR v10 network: {error}") from error
    return {name: array for name, array in constants.items() if array.dtype.kind == "f"}


def _constant(data: ElementTree.Element | None, weights: bytes) -> np.ndarray:
    if data is None:
        raise ValueError("a constant has no data")
    shape = [int(length) for length in data.attrib["shape"].split(",") if length.strip()]
    offset, size = int(data.attrib["offset"]), int(data.attrib["size"])
    dtype = np.dtype(_DTYPES[data.attrib["element_type"]])
    count = int(np.prod(shape, dtype=np.int64))
    if min(shape, default=1) < 1 or offset < 0 or size != count * dtype.itemsize or offset + size > len(weights):
        raise ValueError(f"bytes {offset} to {offset + size} of {len(weights)} cannot hold shape {shape} of {dtype}")
    return np.frombuffer(weights, dtype, count, offset).reshape(shape)

# SPDX-License-Identifier: Apache-2.0
"""Constants that are read from OpenVINO graphs, and graphs that are refused."""

import numpy as np
import pytest
from openvino_graph import WEIGHTS, graph_xml

from stylefast.io.openvino import read_ir


def test_constants_are_read_with_their_types_and_shapes():
    xml = graph_xml(
        ("b", "f32", "1, 2", 8, 8), ("n", "i64", "1", 16, 8), ("a", "f32", "", 4, 4), ("h", "f16", "1,1", 24, 2)
    )
    got = read_ir(xml.encode(), WEIGHTS, "x")
    assert list(got) == ["b", "a", "h"]
    np.testing.assert_array_equal(got["b"], np.array([[3, 4]], np.float32), strict=True)
    np.testing.assert_array_equal(got["a"], np.array(-2, np.float32), strict=True)
    np.testing.assert_array_equal(got["h"], np.array([[0.25]], np.float16), strict=True)


GOOD = ("a", "f32", "4", 0, 16)
ENTITY = '<!DOCTYPE net [<!ENTITY a "aaaa">]>'


@pytest.mark.parametrize(
    "xml, reason",
    [
        (graph_xml(("a", "f32", "8", 0, 32)), r"bytes 0 to 32 of 26 cannot hold shape \[8\]"),
        (graph_xml(("a", "f32", "2", -8, 8)), "bytes -8 to 0"),
        (graph_xml(("a", "f32", "2", 0, 16)), r"cannot hold shape \[2\]"),
        (graph_xml(("a", "f32", "0", 0, 0)), r"cannot hold shape \[0\]"),
        (graph_xml(("a", "f32", "2, -1, -2", 0, 16)), r"cannot hold shape \[2, -1, -2\]"),
        (graph_xml(("a", "u1", "4", 0, 16)), "u1"),
        (graph_xml(("a", "f32", "x", 0, 16)), "invalid literal"),
        (graph_xml(GOOD, GOOD), "two constants have the same name"),
        (graph_xml(GOOD, version="11"), "version='11'"),
        ('<other version="10"/>', "<other version='10'>"),
        ("<net version='10'><layers><layer name='a' type='Const'/></layers></net>", "a constant has no data"),
        ("PK\x03\x04", "not well-formed"),
        (graph_xml(GOOD, head=ENTITY), "document type declarations are refused"),
        (
            graph_xml(GOOD, head=f'<?xml version="1.0" encoding="UTF-16"?>{ENTITY}').encode("utf-16"),
            "type declarations",
        ),
    ],
)
def test_foreign_or_damaged_graphs_are_refused_by_name(xml, reason):
    with pytest.raises(ValueError, match=f"some/net.xml is not a readable OpenVINO IR v10 network: .*{reason}"):
        read_ir(xml if isinstance(xml, bytes) else xml.encode(), WEIGHTS, "some/net.xml")

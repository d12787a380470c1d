# SPDX-License-Identifier: Apache-2.0
"""OpenVINO IR v10 graphs: an interpreter, with which the port to plain torch is compared, and small graphs."""

from collections import Counter
from xml.etree import ElementTree

import numpy as np
import torch
import torch.nn.functional as F

CONST = '<layer name="{0}" type="Const"><data element_type="{1}" shape="{2}" offset="{3}" size="{4}"/></layer>'
WEIGHTS = (
    np.array([1.5, -2, 3, 4], "<f4").tobytes() + np.array([7], "<i8").tobytes() + np.array([0.25], "<f2").tobytes()
)
DTYPES = {"f32": np.float32, "i64": np.int64, "i32": np.int32}


def graph_xml(*constants, head='<?xml version="1.0" ?>', version="10"):
    """Graph of constants, each given as (name, type, shape, offset, size); their bytes are in `WEIGHTS`."""
    layers = "".join(CONST.format(*constant) for constant in constants)
    return f'{head}<net name="x" version="{version}"><layers><layer name="in" type="Parameter"/>{layers}</layers></net>'


def run(xml, weights, argument, watch=None):
    """Run the graph on its only parameter. `watch` is called with the two inputs of each multiplication, in order."""
    net = ElementTree.fromstring(xml)
    sources, uses = {}, Counter()
    for edge in net.iterfind("edges/edge"):
        key = edge.get("from-layer"), edge.get("from-port")
        sources.setdefault(edge.get("to-layer"), {})[int(edge.get("to-port"))] = key
        uses[key] += 1
    values = {}
    for layer in net.iterfind("layers/layer"):
        inputs = []
        for _, key in sorted(sources.get(layer.get("id"), {}).items()):
            inputs.append(values[key])
            uses[key] -= 1
            # All values of a graph for 1024 x 1024 images together do not fit into memory.
            if not uses[key]:
                del values[key]
        data = {} if layer.find("data") is None else layer.find("data").attrib
        kind = layer.get("type")
        if kind == "Result":
            return inputs[0]
        if kind == "Multiply" and watch:
            watch(*inputs)
        if kind == "Parameter":
            outputs = [argument]
        elif kind == "Const":
            outputs = [constant(data, weights)]
        else:
            outputs = OPERATIONS[kind](data, *inputs)
        ports = [port.get("id") for port in layer.iterfind("output/port")]
        values.update({(layer.get("id"), port): output for port, output in zip(ports, outputs, strict=True)})
    raise AssertionError("the graph has no result")


def constant(data, weights):
    offset, size = int(data["offset"]), int(data["size"])
    shape = [int(length) for length in data["shape"].split(",") if length]
    array = np.frombuffer(weights[offset : offset + size], DTYPES[data["element_type"]])
    return torch.from_numpy(array.copy()).reshape(shape)


def numbers(text):
    return [int(number) for number in text.split(",")]


def matmul(data, a, b):
    a = a.T if data["transpose_a"] == "true" else a
    return [a @ (b.T if data["transpose_b"] == "true" else b)]


def convolution(data, x, weight, groups=1):
    assert data["pads_begin"] == data["pads_end"] and data["auto_pad"] == "explicit"
    stride, dilation, padding = numbers(data["strides"]), numbers(data["dilations"]), numbers(data["pads_begin"])
    return [F.conv2d(x, weight, stride=stride, padding=padding, dilation=dilation, groups=groups)]


def group_convolution(data, x, weight):
    return convolution(data, x, weight.flatten(0, 1), groups=len(weight))  # weight [G, O/G, I/G, h, w]


def group_transposed(data, x, weight):
    assert data["output_padding"] == data["pads_begin"] == data["pads_end"] == "0, 0"
    return [F.conv_transpose2d(x, weight.flatten(0, 1), stride=numbers(data["strides"]), groups=len(weight))]


def reshape(data, x, shape):
    return [x.reshape([x.shape[i] if length == 0 else length for i, length in enumerate(shape.tolist())])]


def broadcast(data, x, shape):
    return [x.expand(torch.broadcast_shapes(x.shape, shape.tolist()))]


OPERATIONS = {
    "Add": lambda data, a, b: [a + b],
    "Multiply": lambda data, a, b: [a * b],
    "Power": lambda data, a, b: [a**b],
    "ReduceMean": lambda data, x, axes: [x.mean(axes.tolist(), keepdim=data["keep_dims"] == "true")],
    "MatMul": matmul,
    "PReLU": lambda data, x, slope: [F.prelu(x, slope)],
    "Convolution": convolution,
    "GroupConvolution": group_convolution,
    "GroupConvolutionBackpropData": group_transposed,
    "ShapeOf": lambda data, x: [torch.tensor(x.shape)],
    "Gather": lambda data, x, index, axis: [torch.index_select(x, int(axis), index.reshape(-1)).reshape(index.shape)],
    "Unsqueeze": lambda data, x, axes: [x.unsqueeze(int(axes))],
    "Squeeze": lambda data, x, axes: [x.squeeze(int(axes))],
    "Concat": lambda data, *parts: [torch.cat(parts, int(data["axis"]))],
    "Reshape": reshape,
    "Broadcast": broadcast,
    "Tile": lambda data, x, repeats: [x.repeat(repeats.tolist())],
    "VariadicSplit": lambda data, x, axis, lengths: x.split(lengths.tolist(), int(axis)),
}

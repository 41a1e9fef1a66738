"""What a GPT-2 costs on a device, node by node, from its sizes: no model is built.

With T tokens of a micro-batch, hidden size h, a heads, sequence length s, V words and 2 bytes a number:

- a matrix product of h x n takes 2 T h n FLOPs forward, and as many for each of the two gradients; attention 4 T s h;
- layer norms, GELU and additions take the time in which their operands pass through the device's memory, in backward
  twice as long; so does attention's softmax;
- a layer saves T h (34 + 5 a s / h) bytes, unfused attention and dropout (Megatron-LM's formula): see `_layer`;
- the loss saves its softmax in fp32, 4 T V bytes; the head's matrix is the embedding's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from merak.graph.cutting import GraphCosts, NodeCost, Value

NODES_BEFORE, NODES_OF_LAYER = 1, 10
"""Nodes of the embedding, and of each layer after it."""


@dataclass(frozen=True)
class Model:
    """Sizes of a GPT-2."""

    name: str
    layers: int
    hidden: int
    heads: int
    vocabulary: int = 51200
    sequence: int = 1024


@dataclass(frozen=True)
class Device:
    """An accelerator, and the link to the next stage's.

    Attributes:
        flops: a second, that matrix products reach.
        memory_bandwidth: bytes/s.
        memory: bytes, those for work space left out.
        bandwidth, latency: bytes/s and seconds between stages.
    """

    name: str
    flops: float
    memory_bandwidth: float
    memory: float
    bandwidth: float
    latency: float


@dataclass
class _Line:
    """The graph, as it grows."""

    device: Device
    nodes: list[NodeCost] = field(default_factory=list)
    uses: list[list[int]] = field(default_factory=list)
    value_bytes: list[float] = field(default_factory=list)
    parameter_bytes: list[float] = field(default_factory=list)

    def parameter(self, count: float) -> int:
        self.parameter_bytes.append(2 * count)
        return len(self.parameter_bytes) - 1

    def add(
        self,
        inputs: list[int],
        nbytes: float,
        *,
        product: float = 0,
        weights: bool = False,
        moved: float = 0,
        saved: float = 0,
        parameters: tuple[int, ...] = (),
    ) -> int:
        """A node that gives `nbytes`, after `product` FLOPs, and `moved` bytes through memory, forward."""
        of_product, of_memory = product / self.device.flops, moved / self.device.memory_bandwidth
        of_weights = of_product if weights else 0
        of_input = (of_product if weights else 2 * of_product) + 2 * of_memory
        self.nodes.append(NodeCost(of_product + of_memory, of_input, of_weights, saved, parameters))
        self.value_bytes.append(nbytes)
        self.uses.append([])
        for producer in inputs:
            self.uses[producer].append(len(self.nodes) - 1)
        return len(self.nodes) - 1

    def costs(self) -> GraphCosts:
        values = tuple(
            Value(i, tuple(uses), nbytes)
            for i, (uses, nbytes) in enumerate(zip(self.uses, self.value_bytes, strict=True))
        )
        may_cut = (True,) * len(self.nodes)
        return GraphCosts(tuple(self.nodes), values, tuple(self.parameter_bytes), may_cut)


def _layer(line: _Line, model: Model, tokens: int, x: int) -> int:
    h, th = model.hidden, tokens * model.hidden
    squares = tokens * model.sequence * model.heads  # numbers in all attention matrices

    def product(inputs: list[int], columns: int, rows: int, saved: float) -> int:
        parameter = line.parameter(rows * columns + columns)
        flops = 2.0 * tokens * rows * columns
        nbytes = 2 * tokens * columns
        return line.add(inputs, nbytes, product=flops, weights=True, saved=saved, parameters=(parameter,))

    norm = line.add([x], 2 * th, moved=4 * th, saved=2 * th, parameters=(line.parameter(2 * h),))
    qkv = product([norm], 3 * h, h, 2 * th)
    # Saved: q, k and v; the softmax, its dropout's mask, and what that leaves.
    attention = line.add(
        [qkv],
        2 * th,
        product=4.0 * th * model.sequence,
        moved=8 * squares,
        saved=6 * th + 5 * squares,
    )
    projected = product([attention], h, h, 2 * th)
    middle = line.add([x, projected], 2 * th, moved=7 * th, saved=th)  # saved: the mask of its dropout
    norm = line.add([middle], 2 * th, moved=4 * th, saved=2 * th, parameters=(line.parameter(2 * h),))
    wide = product([norm], 4 * h, h, 2 * th)
    gelu = line.add([wide], 8 * th, moved=16 * th, saved=8 * th)
    narrow = product([gelu], h, 4 * h, 8 * th)
    return line.add([middle, narrow], 2 * th, moved=7 * th, saved=th)


def gpt2_costs(model: Model, device: Device, micro_batch: int) -> GraphCosts:
    """Of one micro-batch of that many sequences."""
    line, tokens = _Line(device), micro_batch * model.sequence
    th, logits = tokens * model.hidden, tokens * model.vocabulary
    words = line.parameter(model.vocabulary * model.hidden)
    positions = line.parameter(model.sequence * model.hidden)
    x = line.add([], 2 * th, moved=5 * th, saved=th, parameters=(words, positions))
    for _ in range(model.layers):
        x = _layer(line, model, tokens, x)
    norm = line.add([x], 2 * th, moved=4 * th, saved=2 * th, parameters=(line.parameter(2 * model.hidden),))
    flops = 2.0 * tokens * model.hidden * model.vocabulary
    head = line.add([norm], 2 * logits, product=flops, weights=True, saved=2 * th, parameters=(words,))
    line.add([head], 4, moved=6 * logits, saved=4 * logits)
    return line.costs()


def layer_boundaries(model: Model, stages: int) -> list[int]:
    """As many layers a stage, one more in the first ones where they do not divide; the embedding is in the first stage,
    the head in the last."""
    least, more = divmod(model.layers, stages)
    layers = [least + (stage < more) for stage in range(stages)]
    return [NODES_BEFORE + NODES_OF_LAYER * sum(layers[: stage + 1]) for stage in range(stages - 1)]

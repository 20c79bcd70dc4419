"""Puts the largest of 2 x 2 pixels into the convolution that makes them, where a kernel can do both."""

from __future__ import annotations

from cnnext.graph.graph import Epilogue, Graph, Node, Value

# Of a group. The kernel that can, has pixels in its lanes: with more filters, lanes of filters are the cheaper ones.
MOST_FILTERS = 32


def fuse_pools(graph: Graph) -> Graph:
    """The graph, in which convolutions to few filters have absorbed the 2 x 2 maximum that alone reads their result."""
    from cnnext.layers.conv2d import Conv2D
    from cnnext.layers.pooled_convolution import PooledConvolution
    from cnnext.layers.pooling import MaxPool2D

    readers = graph.consumers()
    outputs = set(graph.outputs)
    for node in graph.nodes:
        pool = _pool_of(node, readers, outputs)
        if pool is None:
            continue
        assert isinstance(node.layer, Conv2D) and isinstance(pool.layer, MaxPool2D)
        node.layer = PooledConvolution(node.layer, pool.layer, node.output.shape)
        node.outputs = [pool.output]
        pool.output.node = node
        pool.outputs = []
    graph.order()
    return graph


def _pool_of(node: Node, readers: dict[Value, list[Node]], outputs: set[Value]) -> Node | None:
    from cnnext.layers.conv2d import Conv2D
    from cnnext.layers.pooling import MaxPool2D

    epilogue = node.epilogue or Epilogue()
    if type(node.layer) is not Conv2D or node.layer.filters // node.layer.groups > MOST_FILTERS:
        return None
    if epilogue.add is not None or epilogue.post is not None or node.output in outputs:
        return None
    followers = readers.get(node.output, [])
    if len(followers) != 1 or type(followers[0].layer) is not MaxPool2D:
        return None
    pool, (_, rows, cols, _) = followers[0].layer, node.output.shape
    window = pool.geometry(node.output.shape)
    plain = window.kernel == window.strides == (2, 2) and window.dilation == (1, 1) and window.padding == ((0, 0), (0, 0))
    assert rows is not None and cols is not None, "shapes are concrete"
    return followers[0] if plain and followers[0].output.shape[1:3] == (rows // 2, cols // 2) else None

"""How ONNX's normalization operators become layers of this package (entry points of the group ``cnnext.onnx``)."""

from __future__ import annotations

from math import prod

import numpy as np

from cnnext.graph.graph import Value
from cnnext.onnx.site import Site
from cnnext_normalization.batch_norm import BatchNorm
from cnnext_normalization.group_norm import GroupNorm, InstanceNorm
from cnnext_normalization.layer_norm import LayerNorm, RMSNorm
from cnnext_normalization.local_response_norm import LocalResponseNorm


def _epsilon(s: Site) -> float:
    return float(s.attribute("epsilon", 1e-5))


def _only_first_output(s: Site) -> bool:
    return not any(s.op.wanted[1:])


def _per_channel(s: Site, i: int, channels: int) -> Value:
    value = s.value(i)
    if value.shape != (channels,):
        raise s.error("inputs", f"have shape ({channels},) at position {i}", value.shape)
    return value


def batch_normalization(s: Site) -> Value | None:
    """BatchNormalization: running statistics; in training those of the batch, as the layer does."""
    shape = s.shape(0)
    if len(shape) < 2 or not _only_first_output(s) or s.attribute("training_mode", 0) or _epsilon(s) <= 0:
        return None
    gamma, beta, mean, variance = (_per_channel(s, i, shape[1]) for i in range(1, 5))
    layer = BatchNorm(float(s.attribute("momentum", 0.9)), _epsilon(s), data_format="channels_first", name=s.name)
    return s.apply(layer, s.value(0), gamma=gamma, beta=beta, moving_mean=mean, moving_variance=variance)


def instance_normalization(s: Site) -> Value | None:
    """InstanceNormalization."""
    shape = s.shape(0)
    if len(shape) < 3 or _epsilon(s) <= 0:
        return None
    gamma, beta = (_per_channel(s, i, shape[1]) for i in (1, 2))
    return s.apply(InstanceNorm(_epsilon(s), data_format="channels_first", name=s.name), s.value(0), gamma=gamma, beta=beta)


def group_normalization(s: Site) -> Value | None:
    """GroupNormalization: a scale for each channel, or, before version 21, for each group."""
    shape = s.shape(0)
    groups = int(s.attribute("num_groups", 0))
    if len(shape) < 2 or groups < 1 or shape[1] % groups or _epsilon(s) <= 0:
        return None
    both = []
    for i in (1, 2):
        known = s.known(i)
        if s.op.version < 21 and known is not None and known.shape == (groups,) and groups != shape[1]:
            both.append(s.constant(np.repeat(known, shape[1] // groups)))
        elif s.value(i).shape == (shape[1],):
            both.append(s.value(i))
        else:
            return None
    layer = GroupNorm(groups, _epsilon(s), data_format="channels_first", name=s.name)
    return s.apply(layer, s.value(0), gamma=both[0], beta=both[1])


def layer_normalization(s: Site) -> Value | None:
    """LayerNormalization over the last axes, from ``axis`` on."""
    return _row_normalization(s, LayerNorm)


def rms_normalization(s: Site) -> Value | None:
    """RMSNormalization over the last axes, from ``axis`` on."""
    return _row_normalization(s, RMSNorm)


def _row_normalization(s: Site, kind: type[LayerNorm] | type[RMSNorm]) -> Value | None:
    shape = s.shape(0)
    axis = s.axis(0)
    size = prod(shape[axis:])
    terms = [s.value(i) for i in (1, 2) if s.has(i)]
    if not _only_first_output(s) or _epsilon(s) <= 0 or any(prod(n or 0 for n in v.shape) != size for v in terms):
        return None
    if any(tuple(n for n in v.shape if n != 1) != tuple(n for n in shape[axis:] if n != 1) for v in terms):
        return None
    # (N, ..., C) stays as it is where only the last axis is meant: its rows may have gaps between them
    rows = shape if axis == len(shape) - 1 and len(shape) > 1 else (prod(shape[:axis]), size)
    gamma, beta = (s.reshape(s.value(i), (size,)) if s.has(i) else None for i in (1, 2))
    options = {"center": beta is not None} if kind is LayerNorm else {}
    layer = kind(_epsilon(s), scale=gamma is not None, name=s.name, **options)
    return s.reshape(s.apply(layer, s.reshape(s.value(0), rows), gamma=gamma, beta=beta), shape)


def local_response_normalization(s: Site) -> Value | None:
    """LRN."""
    terms = (("bias", 1.0), ("alpha", 1e-4), ("beta", 0.75))
    bias, alpha, beta = (float(s.attribute(name, default)) for name, default in terms)
    if len(s.shape(0)) < 2 or bias <= 0 or alpha < 0 or beta < 0:
        return None
    layer = LocalResponseNorm(int(s.attribute("size", 0)), alpha, beta, bias, data_format="channels_first", name=s.name)
    return s.apply(layer, s.value(0))

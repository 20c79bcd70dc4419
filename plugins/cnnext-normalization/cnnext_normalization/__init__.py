"""Normalization layers for cnnext."""

from cnnext_normalization.batch_norm import BatchNorm
from cnnext_normalization.group_norm import GroupNorm, InstanceNorm
from cnnext_normalization.layer_norm import LayerNorm, RMSNorm
from cnnext_normalization.local_response_norm import LocalResponseNorm

__all__ = ["BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "LocalResponseNorm", "RMSNorm"]
__version__ = "0.1.0"

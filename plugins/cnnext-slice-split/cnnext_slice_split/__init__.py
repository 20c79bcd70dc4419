"""Layers for cnnext that cut values into regions or channel groups, and join them again, without copies."""

from cnnext_slice_split.grid_join import GridJoin
from cnnext_slice_split.regions import Slice, SliceSplit, Split
from cnnext_slice_split.regionwise_conv2d import RegionwiseConv2D
from cnnext_slice_split.shuffle import ChannelShuffle, DepthToSpace, SpaceToDepth

__all__ = ["ChannelShuffle", "DepthToSpace", "GridJoin", "RegionwiseConv2D", "Slice", "SliceSplit", "SpaceToDepth", "Split"]

"""Layers for cnnext that join branches which learned independently, and squeeze-and-excitation."""

from cnnext_fusion.fusion import Fusion
from cnnext_fusion.resize import Resize
from cnnext_fusion.squeeze_excite import SqueezeExcite

__all__ = ["Fusion", "Resize", "SqueezeExcite"]

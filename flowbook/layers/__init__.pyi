# Made by tools/check.py export
from .blocks import ConvNorm as ConvNorm
from .blocks import ConvUnit as ConvUnit
from .blocks import ResidualBlock as ResidualBlock
from .blocks import init_kaiming as init_kaiming
from .decoders import ContextNet as ContextNet
from .decoders import DenseBlock as DenseBlock
from .decoders import DensePredictor as DensePredictor
from .encoders import ContextHead as ContextHead
from .encoders import FeatureEncoder as FeatureEncoder
from .encoders import PyramidEncoder as PyramidEncoder
from .recurrent import ConvGRU as ConvGRU
from .recurrent import FlowHead as FlowHead
from .recurrent import MaskPredictor as MaskPredictor
from .recurrent import MotionEncoder as MotionEncoder
from .recurrent import UpdateBlock as UpdateBlock

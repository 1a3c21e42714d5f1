"Everything for a notebook: `from flowbook.all import *`. It imports fastai; to estimate flow alone, `flowbook.infer.predictor` is enough"
from .core.errors import FlowbookError, FlowFileError, ImageFileError, WeightsError, ConfigError
from .core.types import *
from .core.grid import *
from .io.files import *
from .io.flowfiles import *
from .io.images import *
from .viz.color import *
from .viz.plots import *
from .ops.correlation import *
from .ops.warp import *
from .ops.lookup import *
from .ops.upsample import *
from .ops.offset import *
from .data.scenes import *
from .data.loaders import *
from .layers.blocks import *
from .models.base import *
from .models.pwcnet import *
from .models.raft import *
from .models.compact import *
from .models.weights import *
from .train.losses import *
from .train.metrics import *
from .train.learner import *
from .recipes.core import * # recipes themselves go by name: get_recipe('quickstart')
from .infer.predictor import *
from .infer.evaluate import *

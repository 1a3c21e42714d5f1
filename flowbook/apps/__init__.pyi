# Made by tools/check.py export
from .deploy import triton_config as triton_config
from .deploy import write_triton as write_triton
from .explorer import AugmentExplorer as AugmentExplorer
from .explorer import playground as playground
from .report import Report as Report
from .report import write_report as write_report
from .serve import ServeLimits as ServeLimits
from .serve import make_app as make_app
from .serve import run_server as run_server
from .views import FlowViews as FlowViews
from .widgets import FlowViewer as FlowViewer

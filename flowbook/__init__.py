"""Optical flow as a book: the names most asked for, imported when they are used.

Each room has its own: `from flowbook.data import Sintel`"""
from .core.faces import face, silence_notices
from .core.moved import keep_old_paths

__version__ = "0.1.0"
DOOR = '''estimate_flow FlowPredictor process_video create_model list_models load_weights list_weights
    read_flow read_flow_valid write_flow read_image write_image show_flow flow_to_color side_by_side
    flow_learner SceneDataset SceneConfig FlowFolder FlowSample get_recipe run_recipe end_point_error
    compare_models warp FlowbookError'''.split()

silence_notices()
keep_old_paths()
__getattr__, __dir__ = face(__name__, DOOR)

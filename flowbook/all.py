"""Everything for a notebook: `from flowbook.all import *`.

It imports fastai; to estimate flow alone, `import flowbook` is enough"""
from .core.faces import everything

ROOMS = 'core io viz layers ops data augment models train recipes infer mmflow apps'.split()
__all__, __getattr__, __dir__ = everything([f'flowbook.{o}' for o in ROOMS])

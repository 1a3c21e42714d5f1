from flowbook.core.faces import face

__getattr__, __dir__ = face(__name__)

"""picoformer: trained transformer in, verified microcontroller firmware out."""

__version__ = "0.1.0"

"""A graph as a TFLite file, and TFLite files under their interpreters."""

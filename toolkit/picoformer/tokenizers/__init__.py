"""Text to ids and back: tokenizers of files on the host, and the tables that a device needs to give the same ids.

`load_text_tokenizer(path)` reads a tokenizer.json, a SentencePiece .model, llama2.c's tokenizer.bin or a folder that
holds one of them; `TextTokenizer.tables()` says what it computes, for `backends.c.tokenizer`.
"""

from picoformer.tokenizers.interface import Stream, TextTokenizer
from picoformer.tokenizers.load import load_text_tokenizer
from picoformer.tokenizers.tables import TokenizerTables

__all__ = ["Stream", "TextTokenizer", "TokenizerTables", "load_text_tokenizer"]

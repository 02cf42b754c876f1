"""Stop strings in a stream of bytes: text is given out up to the first one that is complete, however tokens cut it."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Knuth, Morris and Pratt's matcher over several strings at once (1977).

    Text that may be the beginning of a stop string is held back until it is known not to be. Of strings that end at the
    same byte the longest counts.
    """

    def __init__(self, strings: Sequence[bytes]) -> None:
        self._strings = tuple(strings)
        self._borders = [_borders(string) for string in strings]
        self._matched = [0] * len(strings)
        self.held = b""
        self.is_complete = False

    def feed(self, data: bytes) -> bytes:
        """The text that is now certain. After a complete string (`is_complete`) nothing is taken any more."""
        out = bytearray()
        for byte in data:
            if self.is_complete:
                break
            text = self.held + bytes([byte])
            longest = 0
            for i, string in enumerate(self._strings):
                matched = self._matched[i]
                while matched and string[matched] != byte:
                    matched = self._borders[i][matched - 1]
                matched += string[matched] == byte
                self._matched[i] = matched
                if matched == len(string) and (not self.is_complete or matched > longest):
                    self.is_complete, longest = True, matched
                elif not self.is_complete:
                    longest = max(longest, matched)
            keep = len(text) - longest
            out += text[:keep]
            self.held = b"" if self.is_complete else text[keep:]
        return bytes(out)

    def finish(self) -> bytes:
        """What was held back, when the text ends for another reason."""
        rest, self.held = self.held, b""
        return rest


def _borders(string: bytes) -> list[int]:
    """For each prefix the length of its longest border: a proper prefix that it also ends with."""
    borders, matched = [0], 0
    for byte in string[1:]:
        while matched and string[matched] != byte:
            matched = borders[matched - 1]
        matched += string[matched] == byte
        borders.append(matched)
    return borders

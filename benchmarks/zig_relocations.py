"""A link by zig that keeps its relocations: python zig_relocations.py zig cc …

`zig cc` takes no --emit-relocs, its linker does: the link is asked for its command, and made once more by that.
"""

from __future__ import annotations

import shlex
import subprocess
import sys


def main() -> int:
    """Link, then link again with relocations; the map goes to standard output, as the first link would print it."""
    command = sys.argv[1:]
    first = subprocess.run([*command, "-v"], capture_output=True, text=True, check=False)
    linked = [line for line in first.stderr.splitlines() if line.startswith("ld.lld ")]
    if first.returncode or not linked:
        sys.stderr.write(first.stderr)
        return first.returncode or 1
    again = [command[0], "ld.lld", *shlex.split(linked[-1])[1:], "--emit-relocs", "--print-map"]
    return subprocess.run(again, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

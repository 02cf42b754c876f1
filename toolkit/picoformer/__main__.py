"""The command line as `python -m picoformer`, which torchrun starts in every process."""

from picoformer.cli import main

if __name__ == "__main__":
    main(prog_name="picoformer")

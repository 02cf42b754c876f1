"""What a model will take on a board (bytes, instructions, time), said before anything is compiled."""

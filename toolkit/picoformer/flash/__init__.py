"""Writing finished firmware to a board: one interface, one small class for each way in."""

"""Running firmware without a board: as a native process, or in QEMU; one interface."""

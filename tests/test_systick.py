"""Cycles by SysTick: 24 bits that an interrupt extends, read right whenever the interrupt comes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "firmware" / "port" / "cortex_m" / "cycles.c"

MACHINE = """
#include <stdint.h>
volatile uint32_t *at(uint32_t address);
#define PF_REGISTER(address) (*at(address))
#define PF_HAS_FAULT_REGISTERS 0
void pf_cycles_init(void);
void pf_cycles_wrapped(void);
"""

# Time goes on at every access; a round has ended whenever a multiple of 2^24 is passed, and the handler runs at once
# or at a later access.
DRIVER = """
#include <stdio.h>
#include <stdlib.h>
#include "machine.h"
#include "picoformer/port.h"
static uint64_t now, begun, served, read_at;
static volatile uint32_t csr, other, value;
static int is_held, is_new; /* it reloads a moment after it was switched on */
volatile uint32_t *at(uint32_t address)
{
    now += 1u + (uint32_t)(rand() % 3);
    const uint64_t rounds = (csr & 1u) ? (now - begun) >> 24 : 0;
    if (csr & 1u && rounds > served && (!is_held || rand() % 2)) {
        served++;
        pf_cycles_wrapped();
    }
    if (address == 0xE000E010u) {
        begun = now;
        served = 0;
        is_new = 1;
        return &csr;
    }
    if (address == 0xE000E018u) {
        if (is_new) begun = now;
        is_new = 0;
        read_at = now - begun;
        value = (uint32_t)(0x1000000u - (read_at & 0xFFFFFFu)) & 0xFFFFFFu;
        return &value;
    }
    if (address == 0xE000ED04u) {
        other = rounds > served ? 1u << 26 : 0;
        return &other;
    }
    return &other;
}
int main(void)
{
    int wrong = 0;
    for (int run = 0; run < 200; run++) {
        pf_port_count_cycles(1);
        uint32_t first;
        if (!pf_port_cycles(&first) || first != 0) wrong++;
        for (int i = 0; i < 200; i++) {
            const uint64_t end = (((now - begun) >> 24) + 1u) << 24;
            if (rand() % 2) now = begun + end - (uint32_t)(rand() % 12); /* just before the end of a round */
            else now += (uint32_t)rand() % 0x900000u;
            is_held = rand() % 2;
            uint32_t found;
            if (!pf_port_cycles(&found) || found != (uint32_t)read_at) wrong++;
        }
        pf_port_count_cycles(0);
        if (csr != 0) wrong++;
    }
    printf("%d\\n", wrong);
    return 0;
}
"""


def test_systick_counts_on_past_24_bits(tmp_path: Path) -> None:
    shutil.copy(SOURCE, tmp_path)
    (tmp_path / "machine.h").write_text(MACHINE)
    (tmp_path / "driver.c").write_text(DRIVER)
    include = SOURCE.parents[2] / "include"
    flags = ["-O1", "-Wall", "-Wextra", "-Werror", f"-I{include}", f"-I{tmp_path}"]
    subprocess.run(["gcc", *flags, "cycles.c", "driver.c", "-o", "driver"], cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "driver"], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) == 0

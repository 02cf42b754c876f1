/* QEMU plugin: counts the instructions of every region between two addresses and appends each count to a file.
 *
 * Arguments: begin=0xADDR,end=0xADDR,out=PATH. A region starts with the instruction at `begin` (counted) and stops
 * before the one at `end`; its count is one little-endian 64-bit number, written before the guest goes on.
 * With profile=PATH it also says which blocks of instructions a region executed: a 64-bit number of blocks, the lowest
 * address of a store between stack_low=0xADDR and stack_high=0xADDR, and for each block four 64-bit numbers: its first
 * address, the address behind it, how often it ran, and how often it was not followed by what stands behind it.
 * Declares the few functions it uses itself, so it needs no QEMU header. PF_API: 1 (QEMU 4.2 to 8.2) or 2 (from 9.0).
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct block;
struct instruction;

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*callback)(plugin_id, struct block *));
extern void qemu_plugin_register_vcpu_insn_exec_cb(struct instruction *at, void (*callback)(unsigned, void *), int flags,
                                                   void *user);
extern size_t qemu_plugin_tb_n_insns(const struct block *block);
extern struct instruction *qemu_plugin_tb_get_insn(const struct block *block, size_t index);
extern uint64_t qemu_plugin_insn_vaddr(const struct instruction *at);
extern size_t qemu_plugin_insn_size(const struct instruction *at);
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct block *block, void (*callback)(unsigned, void *), int flags, void *user);
extern void qemu_plugin_register_vcpu_mem_cb(struct instruction *at, void (*callback)(unsigned, uint32_t, uint64_t, void *),
                                             int flags, int kind, void *user);

EXPORT int qemu_plugin_version = PF_API;

static uint64_t begin_address, end_address, count_at_begin;
static int inside, out_file = -1, profile_file = -1;

typedef struct ran {
    uint64_t start, end, executed, taken;
    struct ran *next;
} ran;
static ran *all_blocks, *last_block;
static uint64_t stack_low, stack_high, lowest_store;

#if PF_API == 1

extern void qemu_plugin_register_vcpu_insn_exec_inline(struct instruction *at, int operation, void *number, uint64_t add);

static uint64_t executed;

static uint64_t executed_now(void) {
    return executed;
}

static void count(struct instruction *at) {
    qemu_plugin_register_vcpu_insn_exec_inline(at, 0 /* add 64 bit */, &executed, 1);
}

static void prepare(void) {}

#else

struct scoreboard;
typedef struct scored {
    struct scoreboard *score;
    size_t offset;
} scored;

extern struct scoreboard *qemu_plugin_scoreboard_new(size_t element_size);
extern uint64_t qemu_plugin_u64_sum(scored number);
extern void qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(struct instruction *at, int operation, scored number,
                                                                uint64_t add);

static scored executed;

static uint64_t executed_now(void) {
    return qemu_plugin_u64_sum(executed);
}

static void count(struct instruction *at) {
    qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(at, 0 /* add 64 bit */, executed, 1);
}

static void prepare(void) {
    executed.score = qemu_plugin_scoreboard_new(sizeof(uint64_t));
    executed.offset = 0;
}

#endif

static void put(int file, const uint64_t *numbers, size_t count) {
    uint8_t bytes[8 * 4];
    for (size_t i = 0; i < 8 * count; i++) bytes[i] = (uint8_t)(numbers[i / 8] >> (8 * (i % 8)));
    if (write(file, bytes, 8 * count) != (ssize_t)(8 * count)) abort(); /* a lost count must not look like a smaller one */
}

static void on_block(unsigned cpu, void *user) {
    (void)cpu;
    if (!inside) return;
    ran *block = user;
    if (last_block != NULL && last_block->end != block->start) last_block->taken++;
    last_block = block->start == end_address ? NULL : block;
    if (last_block != NULL) block->executed++;
}

static void on_store(unsigned cpu, uint32_t what, uint64_t address, void *user) {
    (void)cpu;
    (void)what;
    (void)user;
    if (address >= stack_low && address < stack_high && address < lowest_store) lowest_store = address;
}

static void write_profile(void) {
    uint64_t head[2] = {0, lowest_store};
    for (ran *block = all_blocks; block != NULL; block = block->next) head[0] += block->executed != 0;
    put(profile_file, head, 2);
    for (ran *block = all_blocks; block != NULL; block = block->next) {
        if (block->executed != 0) put(profile_file, &block->start, 4);
        block->executed = block->taken = 0;
    }
}

static void on_begin(unsigned cpu, void *user) {
    (void)cpu;
    (void)user;
    count_at_begin = executed_now();
    inside = 1;
    last_block = NULL;
    lowest_store = stack_high;
}

static void on_end(unsigned cpu, void *user) {
    (void)cpu;
    (void)user;
    if (!inside) return;
    inside = 0;
    uint64_t taken = executed_now() - count_at_begin;
    put(out_file, &taken, 1);
    if (profile_file >= 0) write_profile();
}

static ran *new_block(struct block *block, size_t instructions) {
    ran *made = calloc(1, sizeof *made);
    if (made == NULL) abort();
    struct instruction *last = qemu_plugin_tb_get_insn(block, instructions - 1);
    made->start = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(block, 0));
    made->end = qemu_plugin_insn_vaddr(last) + qemu_plugin_insn_size(last);
    made->next = all_blocks;
    all_blocks = made;
    return made;
}

static void on_translate(plugin_id id, struct block *block) {
    (void)id;
    size_t instructions = qemu_plugin_tb_n_insns(block);
    if (profile_file >= 0) qemu_plugin_register_vcpu_tb_exec_cb(block, on_block, 0, new_block(block, instructions));
    for (size_t i = 0; i < instructions; i++) {
        struct instruction *at = qemu_plugin_tb_get_insn(block, i);
        uint64_t address = qemu_plugin_insn_vaddr(at);
        /* The callback comes first, so that it sees the count without this instruction. */
        if (address == begin_address) qemu_plugin_register_vcpu_insn_exec_cb(at, on_begin, 0, NULL);
        if (address == end_address) qemu_plugin_register_vcpu_insn_exec_cb(at, on_end, 0, NULL);
        if (profile_file >= 0) qemu_plugin_register_vcpu_mem_cb(at, on_store, 0, 2 /* writes */, NULL);
        count(at);
    }
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "begin=", 6))
            begin_address = strtoull(argv[i] + 6, NULL, 0);
        else if (!strncmp(argv[i], "end=", 4))
            end_address = strtoull(argv[i] + 4, NULL, 0);
        else if (!strncmp(argv[i], "stack_low=", 10))
            stack_low = strtoull(argv[i] + 10, NULL, 0);
        else if (!strncmp(argv[i], "stack_high=", 11))
            stack_high = strtoull(argv[i] + 11, NULL, 0);
        else if (!strncmp(argv[i], "out=", 4))
            out_file = open(argv[i] + 4, O_WRONLY | O_CREAT | O_APPEND, 0600);
        else if (!strncmp(argv[i], "profile=", 8))
            profile_file = open(argv[i] + 8, O_WRONLY | O_CREAT | O_APPEND, 0600);
        else
            return -1;
    }
    if (out_file < 0) return -1;
    prepare();
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    return 0;
}

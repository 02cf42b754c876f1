/* What a generated model tells the device runtime about itself: tensors, steps, and how to run them. */
#ifndef PICOFORMER_DEVICE_H
#define PICOFORMER_DEVICE_H

#include <stdint.h>

typedef struct pf_tensor_info {
    const char *name; /* the value's name in the graph */
    uint32_t offset;  /* bytes into the arena */
    uint32_t bytes;
} pf_tensor_info;

/* What one call of a model's `step` computes: bytes of the output of a step, behind those of the calls before. A step that goes
 * by tiles of rows takes several calls, and other steps' calls come in between. */
typedef struct pf_piece {
    uint32_t step;
    const uint8_t *data; /* where they lie right after the call */
    uint32_t bytes;      /* 0: the call repeats rows that were computed before */
} pf_piece;

/* Filled in by the generated model_device.c; the runtime only reads it. */
typedef struct pf_device_model {
    const char *name;
    uint8_t identity[16]; /* first 16 bytes of SHA-256 of the generated sources' graph */
    uint16_t input_count, output_count, step_count;
    const pf_tensor_info *inputs, *outputs;
    const pf_tensor_info
        *steps; /* steps[i]: the output of step i, and where its first bytes lie right after they were computed */
    uint32_t arena_bytes;
    uint8_t *arena;
    void *state;
    void (*init)(void *state);                        /* back to before the first call; leaves the inputs in the arena alone */
    int (*step)(void *state);                         /* make the next call; 1 while more remain, 0 when the last one is done */
    void (*next)(const void *state, pf_piece *piece); /* what the next call of `step` will compute */
} pf_device_model;

extern const pf_device_model pf_device; /* the one model of this image */

#endif

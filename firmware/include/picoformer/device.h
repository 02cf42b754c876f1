/* What a generated model tells the device runtime about itself: tensors, steps, and how to run them. */
#ifndef PICOFORMER_DEVICE_H
#define PICOFORMER_DEVICE_H

#include <stdint.h>

typedef struct pf_tensor_info {
    const char *name; /* the value's name in the graph */
    uint32_t offset;  /* bytes into the arena */
    uint32_t bytes;
} pf_tensor_info;

/* Filled in by the generated model_device.c; the runtime only reads it. */
typedef struct pf_device_model {
    const char *name;
    uint8_t identity[16]; /* first 16 bytes of SHA-256 of the generated sources' graph */
    uint16_t input_count, output_count, step_count;
    const pf_tensor_info *inputs, *outputs;
    const pf_tensor_info *steps; /* steps[i]: where step i's output lies right after step i ran */
    uint32_t arena_bytes;
    uint8_t *arena;
    void *state;
    void (*init)(void *state); /* back to before step 0; leaves the inputs in the arena alone */
    int (*step)(void *state);  /* run the next step; 1 while more remain, 0 when the last one is done */
} pf_device_model;

extern const pf_device_model pf_device; /* the one model of this image */

#endif

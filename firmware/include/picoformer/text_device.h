/* What a generated language model gives the device runtime, so that the wire can make it write. */
#ifndef PICOFORMER_TEXT_DEVICE_H
#define PICOFORMER_TEXT_DEVICE_H

#include "picoformer/generate.h"

/* Filled in by the generated model_device.c. */
typedef struct pf_text_model {
    void (*decoder)(pf_decoder *decoder); /* the model behind generate.h's seam; its state is all the program's */
    void *sampler_scratch, *beam_scratch; /* aligned to 8 bytes */
    int32_t sampler_bytes, beam_bytes;    /* beam_bytes 0: no room for beams */
    int32_t longest_beam;                 /* tokens of a text that beam_scratch has room for */
    int32_t block;                        /* tokens that one run of the model takes */
    uint8_t *states;                      /* what is kept of the texts, the first one first */
    uint32_t state_bytes;                 /* of all of them */
} pf_text_model;

extern const pf_text_model pf_text;

#endif

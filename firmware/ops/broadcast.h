/* Walking the second operand of an element-wise operator: the runs in which it stands still or moves on by one. */
#ifndef PF_BROADCAST_H
#define PF_BROADCAST_H

#include "picoformer/ops.h"

/* Elements start .. start + length - 1 of the first operand meet elements index, index + step, ... of the second. */
typedef struct pf_run {
    int32_t start, length;
    int32_t index, step;
} pf_run;

/* One run is one element of the second operand `inner` times over, or, with inner = 1, all of it once. */
static inline pf_run pf_first_run(const pf_broadcast *shape) {
    const int32_t wish = shape->inner == 1 ? shape->period : shape->inner;
    pf_run run = {0, wish < shape->count ? wish : shape->count, 0, shape->inner == 1 ? 1 : 0};
    return run;
}

/* The run behind `run`; its length is 0 when there is none. */
static inline pf_run pf_next_run(const pf_broadcast *shape, pf_run run) {
    run.start += run.length;
    if (shape->count - run.start < run.length) {
        run.length = shape->count - run.start;
    }
    if (run.step == 0) {
        run.index = run.index + 1 < shape->period ? run.index + 1 : 0;
    }
    return run;
}

#endif

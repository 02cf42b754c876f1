/* PCG32, XSH-RR 64/32, on stream 54 (O'Neill 2014). */
#include "picoformer/generate.h"

uint32_t pf_random_word(uint64_t *state) {
    const uint64_t old = *state;
    *state = old * 6364136223846793005u + 109u;
    const uint32_t mixed = (uint32_t)(((old >> 18) ^ old) >> 27), turn = (uint32_t)(old >> 59);
    return mixed >> turn | mixed << ((32u - turn) & 31u);
}

uint64_t pf_random_below(uint64_t *state, uint64_t limit) {
    uint32_t shift = 63; /* of one bit, of which 0 alone is below 1 */
    while (shift > 0 && ((limit - 1) >> (64u - shift)) != 0) {
        shift--;
    }
    const int is_one = limit == 1;
    for (;;) {
        const uint64_t high = pf_random_word(state), value = (high << 32 | pf_random_word(state)) >> shift;
        if (is_one || value < limit) {
            return is_one ? 0 : value;
        }
    }
}

/* A sensor that is none: an accelerometer's three axes computed from the number of the reading, for trying a recording without a
 * board. Settings 0 to 2 are what somebody does: 0 stands, 1 walks, 2 shakes it. */
#include <stddef.h>

#include "picoformer/sensor.h"

#define ONE_G 4096

static const pf_channel axes[] = {
    {"ax", "g", 1.0f / ONE_G, 0.0f},
    {"ay", "g", 1.0f / ONE_G, 0.0f},
    {"az", "g", 1.0f / ONE_G, 0.0f},
};

static const pf_sensor_description description = {
    .name = "synthetic accelerometer",
    .type = PF_SAMPLE_INT16,
    .channel_count = 3,
    .channels = axes,
    .rate_numerator = 200,
    .rate_denominator = 1,
};

/* Of each setting and axis: how many readings a period has, and how far it swings. */
static const struct {
    int32_t period, swing;
} waves[3][3] = {
    {{100, 20}, {80, 20}, {120, 20}},
    {{100, 1200}, {50, 800}, {100, 2400}},
    {{20, 6000}, {16, 4000}, {25, 5000}},
};

static uint32_t chosen, count, noise;

static const pf_sensor_description *describe(uint32_t setting) {
    return setting < 3u ? &description : NULL;
}

static int init(uint32_t setting) {
    chosen = setting;
    count = 0;
    noise = 1u + setting;
    return 0;
}

/* A triangle between -swing and swing that begins at -swing. */
static int32_t triangle(uint32_t n, int32_t period, int32_t swing) {
    const int32_t at = (int32_t)(n % (uint32_t)period), half = period / 2;
    return at < half ? 2 * swing * at / half - swing : swing - 2 * swing * (at - half) / (period - half);
}

static int read(void *reading) {
    int16_t *const axis = reading;
    for (uint32_t i = 0; i < 3; i++) {
        noise = noise * 1664525u + 1013904223u; /* the constants of Numerical Recipes' generator */
        const int32_t gravity = i == 2 ? ONE_G : 0, wobble = (int32_t)(noise >> 27) - 16;
        axis[i] = (int16_t)(gravity + triangle(count, waves[chosen][i].period, waves[chosen][i].swing) + wobble);
    }
    count++;
    return 0;
}

const pf_sensor pf_sensor_here = {describe, init, read};

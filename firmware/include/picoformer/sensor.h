/* The seam between firmware that records and a sensor: what the sensor says of itself, and how a reading is taken. */
#ifndef PICOFORMER_SENSOR_H
#define PICOFORMER_SENSOR_H

#include <stdint.h>

/* What a number of a reading is. */
enum pf_sample_type { PF_SAMPLE_INT16 = 1, PF_SAMPLE_INT32 = 2, PF_SAMPLE_FLOAT32 = 3 };

#define PF_MOST_CHANNELS   64u
#define PF_MOST_NAME_BYTES 31u

typedef struct pf_channel {
    const char *name; /* "ax": printable UTF-8, 1 to 31 bytes; no two channels of a sensor share one */
    const char *unit; /* "g", "m/s^2", "" for a plain number; at most 31 bytes */
    float scale;      /* number * scale + offset is the reading in the unit; finite, and not 0 */
    float offset;
} pf_channel;

typedef struct pf_sensor_description {
    const char *name;                          /* of the sensor, as pf_channel's */
    uint32_t type;                             /* enum pf_sample_type; of all channels */
    uint32_t channel_count;                    /* 1 to 64 */
    const pf_channel *channels;                /* in the order of a reading's numbers */
    uint32_t rate_numerator, rate_denominator; /* readings a second, both above 0: the usual rate, and the highest */
} pf_sensor_description;

typedef struct pf_sensor {
    /* What readings are with `setting`: a range or mode that is the sensor's own affair, 0 the usual one, which every sensor has.
     * NULL where there is no such setting. Asked at any time, also while nothing was initialised; what it points to stays. */
    const pf_sensor_description *(*describe)(uint32_t setting);

    /* Make the sensor ready to be read with `setting`, which describe knows. Called before each recording; two seconds at most.
     * 0, or not 0 when the sensor does not answer. */
    int (*init)(uint32_t setting);

    /* Take one reading, now: channel_count numbers of the described type into `reading`, which is aligned for them. Called once
     * for each place on the recording's grid of time; it should take well under one of its periods, and waits for nothing that
     * may not come. 0, or not 0 when there is no reading: then one is missing from the recording, and the host is told so. */
    int (*read)(void *reading);
} pf_sensor;

/* The one sensor of this firmware: the file that `picoformer capture-firmware` is given defines it. */
extern const pf_sensor pf_sensor_here;

#endif

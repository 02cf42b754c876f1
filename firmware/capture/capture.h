/* What the files of the recording firmware share: its messages, the clock of a recording, the stream of readings. */
#ifndef PF_CAPTURE_H
#define PF_CAPTURE_H

#include <stdint.h>

#include "picoformer/requests.h"
#include "picoformer/sensor.h"

#define PF_CAPTURE_VERSION 1u

enum pf_capture_message {
    PF_CAPTURE_DESCRIBE = 0x30,
    PF_CAPTURE_START = 0x31,
    PF_CAPTURE_STOP = 0x32,
    PF_CAPTURE_STATISTICS = 0x33
};

enum pf_capture_status { PF_SENSOR_FAILED = 0x10 }; /* beside enum pf_status */

/* The first byte of each frame that answers a start. */
enum pf_capture_part { PF_CAPTURE_BEGUN = 0, PF_CAPTURE_READINGS = 1, PF_CAPTURE_ENDED = 2 };

#define PF_CAPTURE_HEADER 8u /* of a frame with readings: the reply's, part u8, place u32 */

/* What is asked of a recording, checked. */
typedef struct pf_capture_plan {
    const pf_sensor_description *sensor;
    uint32_t reading_bytes, readings_a_frame;
    uint32_t rate_numerator, rate_denominator;
    uint32_t places; /* how long it is; 0: until the host says something */
} pf_capture_plan;

/* What became of a recording. Its places in time are counted from 0; a place that has no reading was an overrun or a failure. */
typedef struct pf_capture_statistics {
    uint32_t places;
    uint32_t overruns;     /* the board was late, or the line had not yet taken what was there */
    uint32_t failures;     /* the sensor had no reading */
    uint32_t longest_read; /* cycles; 0 where there is no counter */
} pf_capture_statistics;

/* Record: send readings as they come, until `places` are through or the host sends a byte. */
void pf_capture_record(const pf_capture_plan *plan, uint8_t sequence, pf_capture_statistics *found);

/* The clock of a recording. 0 where the machine has no counter for it: then readings are as fast as the line takes them. */
int pf_pace_is_there(void);

/* Whether the clock can keep this rate: at most one reading in 64 cycles, at least one in 2^30. */
int pf_pace_can_keep(uint32_t rate_numerator, uint32_t rate_denominator);

void pf_pace_begin(uint32_t rate_numerator, uint32_t rate_denominator); /* the first place is due now */
int pf_pace_is_due(void);                                               /* whether the time of the present place has come */
int pf_pace_is_missed(void);                                            /* and that of the next one, too */
void pf_pace_next(void);                                                /* on to the next place */
void pf_pace_end(void);

/* Cycles by the machine's counter, 0 where there is none. */
uint32_t pf_pace_now(void);

#endif

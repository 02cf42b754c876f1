/* Readings into frames while the frame before goes over the line, byte by byte, so that none has to wait for it. */
#include <string.h>

#include "capture.h"
#include "picoformer/port.h"

/* A frame that fills, or goes out. Its CRC grows with it: at the end there would be no time. */
typedef struct frame {
    uint8_t body[PF_FRAME_BYTES + PF_CRC_BYTES];
    uint32_t length, crc, readings, next_place;
} frame;

/* A frame on its way, stuffed (COBS) as pf_frame_send does, one byte at a time. */
typedef struct sender {
    const uint8_t *data;
    uint32_t bytes, at, left; /* left: of the group that is being sent */
    int is_full;              /* the group has 254 bytes, and no zero behind them */
    enum { IDLE, GROUPS, DELIMITER } state;
} sender;

static frame frames[2];
static sender line;

static void end_group(sender *out) {
    if (out->at >= out->bytes)
        out->state = DELIMITER;
    else if (!out->is_full)
        out->at++; /* the implied zero */
}

static void send_next(sender *out) {
    if (out->state == DELIMITER) {
        pf_port_write(0);
        pf_port_flush();
        out->state = IDLE;
    } else if (out->left > 0) {
        pf_port_write(out->data[out->at++]);
        if (--out->left == 0) end_group(out);
    } else {
        uint32_t run = 0;
        while (run < 254u && out->at + run < out->bytes && out->data[out->at + run] != 0) run++;
        pf_port_write((uint8_t)(run + 1u));
        out->left = run;
        out->is_full = run == 254u;
        if (run == 0) end_group(out);
    }
}

static void append(frame *out, const void *data, uint32_t bytes) {
    memcpy(out->body + out->length, data, bytes);
    out->crc = pf_crc32(out->crc, out->body + out->length, bytes);
    out->length += bytes;
}

static void open_frame(frame *out, uint8_t sequence, uint32_t place) {
    uint8_t header[PF_CAPTURE_HEADER] = {sequence, PF_CAPTURE_START | PF_REPLY, PF_ACCEPTED, PF_CAPTURE_READINGS};
    pf_put32(header + 4, place);
    out->length = out->crc = out->readings = 0;
    out->next_place = place;
    append(out, header, sizeof header);
}

static void send(frame *out) {
    pf_put32(out->body + out->length, out->crc);
    line = (sender){out->body, out->length + PF_CRC_BYTES, 0, 0, 0, GROUPS};
    out->readings = 0;
}

static void finish_sending(void) {
    while (line.state != IDLE) send_next(&line);
}

/* Take the reading of a place into `fill`, which has room. Whether the sensor had one. */
static int take(frame *fill, const pf_capture_plan *plan, uint8_t sequence, uint32_t place, pf_capture_statistics *found) {
    static uint32_t reading[PF_MOST_CHANNELS];
    if (fill->readings == 0) open_frame(fill, sequence, place);
    const uint32_t before = pf_pace_now();
    const int status = pf_sensor_here.read(reading);
    const uint32_t taken = pf_pace_now() - before;
    if (taken > found->longest_read) found->longest_read = taken;
    if (status != 0) return 0;
    append(fill, reading, plan->reading_bytes);
    fill->readings++;
    fill->next_place = place + 1u;
    return 1;
}

void pf_capture_record(const pf_capture_plan *plan, uint8_t sequence, pf_capture_statistics *found) {
    const int is_paced = pf_pace_is_there();
    uint32_t filling = 0;

    memset(found, 0, sizeof *found);
    frames[0].readings = frames[1].readings = 0;
    line.state = IDLE;
    if (is_paced) pf_pace_begin(plan->rate_numerator, plan->rate_denominator);
    while (!pf_port_received() && (plan->places == 0 || found->places < plan->places)) {
        frame *fill = &frames[filling];
        /* A frame holds places without a gap: it goes out when it is full, and when the next place is not the next of its own. */
        const int is_over =
            fill->readings == plan->readings_a_frame || (fill->readings != 0 && fill->next_place != found->places);
        if (is_over && line.state == IDLE) {
            send(fill);
            filling ^= 1u;
        } else if (is_paced ? pf_pace_is_due() : !is_over) {
            if (is_over)
                found->overruns++;
            else if (!take(fill, plan, sequence, found->places, found))
                found->failures++;
            found->places++;
            if (is_paced) pf_pace_next();
            while (is_paced && pf_pace_is_missed() && (plan->places == 0 || found->places < plan->places)) {
                found->overruns++;
                found->places++;
                pf_pace_next();
            }
        } else if (line.state != IDLE) {
            send_next(&line);
        }
    }
    if (is_paced) pf_pace_end();
    finish_sending();
    if (frames[filling].readings != 0) {
        send(&frames[filling]);
        finish_sending();
    }
}

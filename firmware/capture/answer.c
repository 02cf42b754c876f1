/* The requests of firmware that records a sensor: check every field, act, reply. */
#include <string.h>

#include "capture.h"
#include "picoformer/port.h"

#define MOST_RATE (1u << 30) /* numerator and denominator: sums of two stay below 2^32 */

static pf_capture_statistics last;

static uint32_t name_bytes(const char *name) {
    const uint32_t length = (uint32_t)strlen(name);
    return length < PF_MOST_NAME_BYTES ? length : PF_MOST_NAME_BYTES;
}

static void add_name(pf_reply *reply, const char *name) {
    pf_reply_u8(reply, name_bytes(name));
    pf_reply_bytes(reply, name, name_bytes(name));
}

static void add_float(pf_reply *reply, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    pf_reply_u32(reply, bits);
}

static uint32_t reading_bytes(const pf_sensor_description *sensor) {
    return sensor->channel_count * (sensor->type == PF_SAMPLE_INT16 ? 2u : 4u);
}

static uint32_t most_readings(const pf_sensor_description *sensor) {
    return (PF_FRAME_BYTES - PF_CAPTURE_HEADER) / reading_bytes(sensor);
}

/* What is asked of a device that a host does not know yet: that it has no model, and its sensor's name. */
static uint8_t hello(const pf_call *in, pf_reply *reply) {
    static const uint8_t no_model[16 + 3 * 2]; /* identity, inputs, outputs, steps */
    if (in->bytes != 0) return PF_BAD_LENGTH;
    pf_reply_u16(reply, PF_WIRE_VERSION);
    pf_reply_u16(reply, PF_FRAME_BYTES);
    pf_reply_bytes(reply, no_model, sizeof no_model);
    pf_reply_u16(reply, pf_pace_is_there() ? PF_HELLO_CYCLES : 0u);
    pf_reply_u32(reply, 0);
    pf_reply_u32(reply, PF_CLOCK_HZ);
    const char *const name = pf_sensor_here.describe(0)->name;
    pf_reply_bytes(reply, name, name_bytes(name));
    return PF_ACCEPTED;
}

static uint8_t describe(const pf_call *in, pf_reply *reply) {
    if (in->bytes != 3) return PF_BAD_LENGTH;
    const pf_sensor_description *const sensor = pf_sensor_here.describe(in->payload[0]);
    uint32_t index = pf_get16(in->payload + 1);
    if (sensor == NULL || index >= sensor->channel_count) return PF_OUT_OF_RANGE;
    pf_reply_u8(reply, PF_CAPTURE_VERSION);
    pf_reply_u8(reply, pf_pace_is_there() ? 1u : 0u);
    pf_reply_u8(reply, sensor->type);
    pf_reply_u16(reply, sensor->channel_count);
    pf_reply_u16(reply, most_readings(sensor));
    pf_reply_u32(reply, sensor->rate_numerator);
    pf_reply_u32(reply, sensor->rate_denominator);
    add_name(reply, sensor->name);
    for (; index < sensor->channel_count; index++) {
        const pf_channel *const channel = &sensor->channels[index];
        if (pf_reply_room(reply) < 10u + name_bytes(channel->name) + name_bytes(channel->unit)) break;
        add_float(reply, channel->scale);
        add_float(reply, channel->offset);
        add_name(reply, channel->name);
        add_name(reply, channel->unit);
    }
    return PF_ACCEPTED;
}

static void add_statistics(pf_reply *reply) {
    pf_reply_u32(reply, last.places);
    pf_reply_u32(reply, last.overruns);
    pf_reply_u32(reply, last.failures);
    pf_reply_u32(reply, last.longest_read);
}

static uint8_t start(const pf_call *in, pf_reply *reply) {
    if (in->bytes != 15) return PF_BAD_LENGTH;
    const uint32_t setting = in->payload[0], wanted = pf_get16(in->payload + 9);
    pf_capture_plan plan = {.sensor = pf_sensor_here.describe(setting)};
    if (plan.sensor == NULL || plan.sensor->channel_count - 1u >= PF_MOST_CHANNELS) return PF_OUT_OF_RANGE;
    const uint32_t most = most_readings(plan.sensor), usual = plan.sensor->rate_numerator, per = plan.sensor->rate_denominator;
    plan.reading_bytes = reading_bytes(plan.sensor);
    plan.readings_a_frame = wanted == 0 ? most : wanted;
    plan.rate_numerator = pf_get32(in->payload + 1);
    plan.rate_denominator = pf_get32(in->payload + 5);
    plan.places = pf_get32(in->payload + 11);
    if (plan.rate_numerator == 0 && plan.rate_denominator == 0) {
        plan.rate_numerator = usual;
        plan.rate_denominator = per;
    }
    if (plan.readings_a_frame > most) return PF_OUT_OF_RANGE;
    if (plan.rate_numerator - 1u >= MOST_RATE || plan.rate_denominator - 1u >= MOST_RATE) return PF_OUT_OF_RANGE;
    if ((uint64_t)plan.rate_numerator * per > (uint64_t)usual * plan.rate_denominator) return PF_OUT_OF_RANGE;
    if (pf_pace_is_there() && !pf_pace_can_keep(plan.rate_numerator, plan.rate_denominator)) return PF_OUT_OF_RANGE;
    pf_reply_u8(reply, PF_CAPTURE_BEGUN); /* at once: the sensor and the first readings may take a while */
    pf_reply_send(reply);
    reply->length = PF_REPLY_HEADER;
    if (pf_sensor_here.init(setting) != 0) return PF_SENSOR_FAILED;
    pf_capture_record(&plan, in->sequence, &last);
    pf_reply_u8(reply, PF_CAPTURE_ENDED);
    add_statistics(reply);
    return PF_ACCEPTED;
}

static uint8_t answer(const pf_call *in, pf_reply *reply) {
    switch (in->type) {
    case PF_HELLO:
        return hello(in, reply);
    case PF_CAPTURE_DESCRIBE:
        return describe(in, reply);
    case PF_CAPTURE_START:
        return start(in, reply);
    case PF_CAPTURE_STOP: /* a recording ended when the request's first byte came */
    case PF_CAPTURE_STATISTICS:
        if (in->bytes != 0) return PF_BAD_LENGTH;
        add_statistics(reply);
        return PF_ACCEPTED;
    default:
        return PF_UNKNOWN_TYPE;
    }
}

int main(void) {
    pf_port_init();
    pf_serve_requests(pf_sensor_here.describe(0)->name, answer);
    pf_port_exit(0);
}

/* Text over the wire: begin with settings, feed tokens, ask for the next one; or a whole beam search. */
#ifdef PF_TEXT
#include "picoformer/port.h"
#include "picoformer/text_device.h"
#include "wire_internal.h"

#define SETTINGS_BYTES      60u
#define BEAM_SETTINGS_BYTES 40u
#define MOST_TOKENS         ((PF_FRAME_BYTES - 2u) / 4u) /* of a request */
#define AFTER_BYTES         4u

static pf_decoder decoder, model; /* the model's, block by block under the watchdog; and as it is */
static pf_sampler_settings settings;
static pf_sampler sampler;
static int32_t position = -1; /* of the next token to decode; -1: no text was begun */
static int32_t pending;       /* the token that was drawn and is not decoded yet; -1: none */
static int32_t tokens[MOST_TOKENS], token_count;
static int32_t drawn;
static uint32_t so_far; /* CRC-32 of the settings and all tokens: a request that is meant for another text is refused */

void pf_text_forget(void) {
    position = pending = -1;
}

/* The tokens by blocks, each of which may take as long as a step of a plain run. */
static int decode(void *unused, int32_t slot, const int32_t *from, int32_t count, int32_t at) {
    int status = 0;
    (void)unused;
    for (int32_t done = 0; done < count && status == 0; done += pf_text.block) {
        const int32_t rows = count - done < pf_text.block ? count - done : pf_text.block;
        pf_port_watchdog(1);
        status = model.decode(model.model, slot, from + done, rows, at + done);
    }
    return status;
}

static void open_decoder(void) {
    pf_text_forget();
    pf_text.decoder(&model);
    decoder = model;
    decoder.decode = decode;
}

static int32_t get_signed(const uint8_t *from) {
    return (int32_t)pf_get32(from);
}

/* One counted call of the port; what it returns is `function`'s. */
static int counted(int (*function)(void *), void *argument, uint32_t *cycles) {
    uint32_t before = 0, after = 0;
    const int has_counter = pf_port_cycles(&before);
    pf_port_watchdog(1);
    const int status = pf_port_call_step(function, argument);
    if (has_counter) (void)pf_port_cycles(&after);
    pf_port_watchdog(0);
    *cycles = after - before;
    return status;
}

static int feed(void *unused) {
    (void)unused;
    return decoder.decode(decoder.model, 0, tokens, token_count, position);
}

/* Decode what was drawn last, then draw the next. */
static int next(void *unused) {
    int status = 0;
    (void)unused;
    if (pending >= 0) {
        status = decoder.decode(decoder.model, 0, &pending, 1, position);
        position += status == 0;
        pending = -1;
    }
    if (status == 0) {
        const pf_logits logits = decoder.logits(decoder.model);
        drawn = pf_sample(&sampler, &logits);
        status = drawn < 0 ? drawn : 0;
    }
    return status;
}

static void read_exponent(const uint8_t *from, pf_exponent *exponent) {
    exponent->multiplier = pf_get32(from);
    exponent->shift = get_signed(from + 4);
    exponent->reach = pf_get32(from + 8);
}

uint8_t pf_text_begin(pf_reply *reply, const uint8_t *request, uint32_t bytes) {
    if (bytes != SETTINGS_BYTES) return PF_BAD_LENGTH;
    read_exponent(request, &settings.exponent);
    settings.raise_multiplier = pf_get32(request + 12);
    settings.raise_shift = get_signed(request + 16);
    settings.lower_multiplier = pf_get32(request + 20);
    settings.lower_shift = get_signed(request + 24);
    settings.is_penalized = get_signed(request + 28);
    settings.top_k = get_signed(request + 32);
    settings.top_p = pf_get32(request + 36);
    settings.near = pf_get32(request + 40);
    settings.greedy = get_signed(request + 44);
    settings.is_float = get_signed(request + 48);
    settings.seed = ((uint64_t)pf_get32(request + 56) << 32) | pf_get32(request + 52);
    open_decoder();
    if ((settings.is_float != 0) != (decoder.logits(decoder.model).is_float != 0)) return PF_OUT_OF_RANGE;
    if (pf_sampler_init(&sampler, &settings, decoder.vocabulary, pf_text.sampler_scratch, pf_text.sampler_bytes) < 0)
        return PF_OUT_OF_RANGE;
    position = 0;
    so_far = pf_crc32(0, request, bytes);
    pf_reply_u32(reply, (uint32_t)decoder.context);
    pf_reply_u32(reply, (uint32_t)decoder.vocabulary);
    pf_reply_u32(reply, (uint32_t)decoder.slots);
    return PF_ACCEPTED;
}

uint8_t pf_text_feed(pf_reply *reply, const uint8_t *request, uint32_t bytes) {
    uint32_t cycles = 0;
    if (bytes < AFTER_BYTES + 4 || bytes % 4 != 0) return PF_BAD_LENGTH;
    if (position < 0 || pending >= 0 || pf_get32(request) != so_far) return PF_STALE;
    request += AFTER_BYTES;
    bytes -= AFTER_BYTES;
    token_count = (int32_t)(bytes / 4);
    if (token_count > decoder.context - position) return PF_OUT_OF_RANGE;
    for (int32_t i = 0; i < token_count; i++) {
        tokens[i] = get_signed(request + 4 * i);
        if (tokens[i] < 0 || tokens[i] >= decoder.vocabulary) return PF_OUT_OF_RANGE;
    }
    pf_stream_begin(reply);
    for (int32_t i = 0; i < token_count; i++) (void)pf_sampler_accept(&sampler, tokens[i]);
    if (counted(feed, 0, &cycles) < 0) {
        pf_text_forget();
        return PF_STEP_FAILED;
    }
    position += token_count;
    so_far = pf_crc32(so_far, request, bytes);
    pf_stream_u32(reply, (uint32_t)position);
    pf_stream_u32(reply, cycles);
    pf_stream_end(reply);
    return PF_ACCEPTED;
}

uint8_t pf_text_next(pf_reply *reply, const uint8_t *request, uint32_t bytes) {
    uint32_t cycles = 0;
    uint8_t token[4];
    if (bytes != AFTER_BYTES) return PF_BAD_LENGTH;
    if (position <= 0 || pf_get32(request) != so_far) return PF_STALE;
    if (pending >= 0 && position >= decoder.context) return PF_OUT_OF_RANGE;
    pf_stream_begin(reply);
    if (counted(next, 0, &cycles) < 0) {
        pf_text_forget();
        return PF_STEP_FAILED;
    }
    (void)pf_sampler_accept(&sampler, drawn);
    pending = drawn;
    pf_put32(token, (uint32_t)drawn);
    so_far = pf_crc32(so_far, token, sizeof token);
    pf_stream_u32(reply, (uint32_t)drawn);
    pf_stream_u32(reply, cycles);
    pf_stream_end(reply);
    return PF_ACCEPTED;
}

typedef struct beam_call {
    pf_beam beam;
    pf_beam_settings settings;
    const int32_t *prompt;
    int32_t prompt_count, found;
} beam_call;

static int search(void *argument) {
    beam_call *call = (beam_call *)argument;
    call->found = pf_beam_search(&call->beam, &call->settings, &decoder, call->prompt, call->prompt_count, pf_text.beam_scratch,
                                 pf_text.beam_bytes);
    return call->found < 0 ? call->found : 0;
}

/* The request: settings, stop tokens, the prompt. The reply: count; each text's score and length, then its tokens. */
uint8_t pf_text_beam(pf_reply *reply, const uint8_t *request, uint32_t bytes) {
    static beam_call call;
    uint32_t cycles = 0;
    if (bytes < BEAM_SETTINGS_BYTES || bytes % 4 != 0) return PF_BAD_LENGTH;
    const uint32_t stops = pf_get32(request + 36), words = (bytes - BEAM_SETTINGS_BYTES) / 4;
    if (stops >= words) return PF_BAD_LENGTH;
    read_exponent(request, &call.settings.exponent);
    call.settings.grid_multiplier = pf_get32(request + 12);
    call.settings.grid_shift = get_signed(request + 16);
    call.settings.length_penalty = get_signed(request + 20);
    call.settings.beams = get_signed(request + 24);
    call.settings.early_stopping = request[28];
    call.settings.is_float = (int32_t)(pf_get32(request + 28) >> 8);
    call.settings.max_tokens = get_signed(request + 32);
    for (uint32_t i = 0; i < words; i++) tokens[i] = get_signed(request + BEAM_SETTINGS_BYTES + 4 * i);
    call.settings.stop_tokens = tokens;
    call.settings.stop_token_count = (int32_t)stops;
    call.prompt = tokens + stops;
    call.prompt_count = (int32_t)(words - stops);
    open_decoder();
    if (pf_text.beam_bytes == 0 || call.settings.max_tokens > pf_text.longest_beam ||
        call.settings.max_tokens > (int32_t)MOST_TOKENS)
        return PF_OUT_OF_RANGE;
    pf_stream_begin(reply);
    if (counted(search, &call, &cycles) < 0) return call.found == PF_ERROR_DECODER ? PF_STEP_FAILED : PF_OUT_OF_RANGE;
    pf_stream_u32(reply, (uint32_t)call.found);
    pf_stream_u32(reply, cycles);
    for (int32_t rank = 0; rank < call.found; rank++) {
        const pf_finished_text *text = &call.beam.finished[rank];
        pf_beam_text(&call.beam, rank, tokens); /* the request's are not needed any more */
        pf_stream_u32(reply, (uint32_t)(uint64_t)text->score);
        pf_stream_u32(reply, (uint32_t)((uint64_t)text->score >> 32));
        pf_stream_u32(reply, (uint32_t)text->length);
        for (int32_t i = 0; i < text->length; i++) pf_stream_u32(reply, (uint32_t)tokens[i]);
    }
    pf_stream_end(reply);
    return PF_ACCEPTED;
}
#else
typedef int pf_text_is_not_there; /* a file of C has at least one declaration */
#endif

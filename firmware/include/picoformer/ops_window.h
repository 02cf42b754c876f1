/* The operators that read windows of images, part of ops.h, whose conventions hold here. */
#ifndef PICOFORMER_OPS_WINDOW_H
#define PICOFORMER_OPS_WINDOW_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Windows over images of height x width x channels, one after another: rows x columns of them in each, of kernel_h x kernel_w
 * taps that are dilation apart, the first at (-pad_top, -pad_left), the next stride further on. Taps outside are not there.
 * Functions that take one compute `rows` places from `first` on, counted row by row through all images, and read all of x. */
typedef struct pf_window {
    int32_t height, width, channels; /* of pf_patches: bytes of all channels */
    int32_t kernel_h, kernel_w;
    int32_t stride_h, stride_w;
    int32_t dilation_h, dilation_w;
    int32_t pad_top, pad_left;
    int32_t rows, columns;
} pf_window;

/* y[r][c] = requantize(bias[c] + sum over the taps t of weight[t][c] * x[t][c]); a tap that is not there is zero_in. */
typedef struct pf_depthwise {
    const int8_t *weight;      /* taps x channels */
    const int32_t *bias;       /* channels; the zero point of the input is folded in */
    const int32_t *multiplier; /* channels */
    int32_t shift;             /* 1..32 */
    int32_t zero_in, zero_point;
} pf_depthwise;
void pf_depthwise_s8_s8(const pf_depthwise *p, const pf_window *w, const int8_t *x, int8_t *y, int32_t first, int32_t rows);
void pf_depthwise_s8_s16(const pf_depthwise *p, const pf_window *w, const int8_t *x, int16_t *y, int32_t first, int32_t rows);
void pf_depthwise_s16_s8(const pf_depthwise *p, const pf_window *w, const int16_t *x, int8_t *y, int32_t first, int32_t rows);
void pf_depthwise_s16_s16(const pf_depthwise *p, const pf_window *w, const int16_t *x, int16_t *y, int32_t first, int32_t rows);

/* The largest entry of each window, channel by channel; every window has one. */
void pf_max_pool_s8(const pf_window *w, const int8_t *x, int8_t *y, int32_t first, int32_t rows);
void pf_max_pool_s16(const pf_window *w, const int16_t *x, int16_t *y, int32_t first, int32_t rows);

/* The mean of the entries of each window, channel by channel; with include_pad over all taps, those that are not there zeros. */
typedef struct pf_average_pool {
    int32_t mantissa, exponent;
    int32_t zero_in, zero_point;
    int32_t include_pad;
} pf_average_pool;
void pf_average_pool_s8_s8(const pf_average_pool *p, const pf_window *w, const int8_t *x, int8_t *y, int32_t first, int32_t rows);
void pf_average_pool_s8_s16(const pf_average_pool *p, const pf_window *w, const int8_t *x, int16_t *y, int32_t first,
                            int32_t rows);
void pf_average_pool_s16_s8(const pf_average_pool *p, const pf_window *w, const int16_t *x, int8_t *y, int32_t first,
                            int32_t rows);
void pf_average_pool_s16_s16(const pf_average_pool *p, const pf_window *w, const int16_t *x, int16_t *y, int32_t first,
                             int32_t rows);

/* The taps of each window one after another; every byte of one that is not there is `fill`. */
void pf_patches(const pf_window *w, void *y, const void *x, int32_t fill, int32_t first, int32_t rows);

/* In float. */
typedef struct pf_depthwise_f32_params {
    const float *weight; /* taps x channels */
    const float *bias;   /* channels, or NULL */
} pf_depthwise_f32_params;
void pf_depthwise_f32(const pf_depthwise_f32_params *p, const pf_window *w, const float *x, float *y, int32_t first,
                      int32_t rows);
void pf_max_pool_f32(const pf_window *w, const float *x, float *y, int32_t first, int32_t rows);
void pf_average_pool_f32(const pf_window *w, const float *x, float *y, int32_t include_pad, int32_t first, int32_t rows);

#ifdef __cplusplus
}
#endif

#endif

/* The STM32F411's and F446's own thermometer and supply, by ADC1 (RM0383 and RM0390, section ADC; datasheets DS10314 and DS10693,
 * tables of the temperature sensor and of the internal reference voltage). Never run on hardware. */
#include <stddef.h>

#include "picoformer/sensor.h"

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define RCC_APB2ENR       REGISTER(0x40023844u)
#define ADC1(offset)      REGISTER(0x40012000u + (offset))
#define ADC_SR            ADC1(0x00u)
#define ADC_CR1           ADC1(0x04u)
#define ADC_CR2           ADC1(0x08u)
#define ADC_SMPR1         ADC1(0x0Cu)
#define ADC_SQR1          ADC1(0x2Cu)
#define ADC_SQR3          ADC1(0x34u)
#define ADC_DR            ADC1(0x4Cu)
#define ADC_CCR           REGISTER(0x40012304u)
#define APB2ENR_ADC1EN    (1u << 8)
#define SR_EOC            (1u << 1)
#define CR2_ADON          (1u << 0)
#define CR2_SWSTART       (1u << 30)
#define CCR_TSVREFE       (1u << 23) /* thermometer and reference on; VBATE, bit 22, stays off: it shares the channel */
#define CHANNEL_VREFINT   17u
#define CHANNEL_THERMO    18u
#define SMPR1_LONGEST     (7u << 3 * (17u - 10u) | 7u << 3 * (18u - 10u)) /* 480 cycles of the ADC: 60 us at 8 MHz, 10 are asked */
#define PATIENCE          100000u

/* 12 bits of a supply of 3.3 V: 0.76 V are 25 degrees, and 2.5 mV one degree more. */
#define VOLTS (3.3f / 4095.0f)

static const pf_channel channels[] = {
    {"temperature", "degC", VOLTS / 0.0025f, 25.0f - 0.76f / 0.0025f},
    {"reference", "V", VOLTS, 0.0f}, /* 1.21 V: what differs from that is the supply's */
};

static const pf_sensor_description description = {
    .name = "STM32F4 thermometer",
    .type = PF_SAMPLE_INT16,
    .channel_count = 2,
    .channels = channels,
    .rate_numerator = 100,
    .rate_denominator = 1,
};

static const pf_sensor_description *describe(uint32_t setting) {
    return setting == 0 ? &description : NULL;
}

static int init(uint32_t setting) {
    (void)setting;
    RCC_APB2ENR |= APB2ENR_ADC1EN;
    (void)RCC_APB2ENR;
    ADC_CCR = CCR_TSVREFE; /* and the ADC's clock half of the bus's */
    ADC_CR1 = 0;           /* 12 bits, no scan */
    ADC_SMPR1 = SMPR1_LONGEST;
    ADC_SQR1 = 0; /* one conversion at a time */
    ADC_CR2 = CR2_ADON;
    for (volatile uint32_t wait = 0; wait < 1000u; wait++) { /* 3 us for the ADC, 10 us for the thermometer */
    }
    return 0;
}

static int convert(uint32_t channel, int16_t *value) {
    ADC_SQR3 = channel;
    ADC_SR = 0;
    ADC_CR2 = CR2_ADON | CR2_SWSTART;
    for (uint32_t wait = 0; wait < PATIENCE; wait++) {
        if (ADC_SR & SR_EOC) {
            *value = (int16_t)(ADC_DR & 0xFFFu);
            return 0;
        }
    }
    return 1;
}

static int read(void *reading) {
    int16_t *const values = reading;
    return convert(CHANNEL_THERMO, &values[0]) != 0 || convert(CHANNEL_VREFINT, &values[1]) != 0;
}

const pf_sensor pf_sensor_here = {describe, init, read};

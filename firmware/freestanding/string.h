/* The part of the C library that the runtime uses, for a compiler that comes without one. */
#ifndef PF_FREESTANDING_STRING_H
#define PF_FREESTANDING_STRING_H

#include <stddef.h>

/* These two are in every compiler's own run-time library, since it may call them itself. */
void *memcpy(void *to, const void *from, size_t bytes);
void *memset(void *to, int value, size_t bytes);

size_t strlen(const char *text);

#endif

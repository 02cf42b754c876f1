/* strlen, for a compiler that comes without a C library. */
#include "string.h"

size_t strlen(const char *text) {
    size_t length = 0;
    while (text[length] != '\0') length++;
    return length;
}

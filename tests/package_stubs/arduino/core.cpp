// The core's other half: what a sketch prints goes to standard output, and after one turn of loop the program ends.
#include "Arduino.h"

#include <stdio.h>

SerialPort Serial;
static bool is_open;

size_t Print::print(const char *text)
{
    return is_open ? fwrite(text, 1, __builtin_strlen(text), stdout) : 0;
}

void SerialPort::begin(unsigned long baud)
{
    is_open = baud == 115200;
}

SerialPort::operator bool() const
{
    return is_open;
}

extern "C" unsigned long millis(void)
{
    return 0;
}

int main(void)
{
    setup();
    loop();
    return 0;
}

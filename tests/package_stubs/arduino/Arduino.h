/* As much of Arduino's core as a sketch of ours uses, so that one compiles and runs without a board. */
#ifndef ARDUINO_H
#define ARDUINO_H

#include <stddef.h>
#include <stdint.h>

class Print
{
public:
    size_t print(const char *text);
};

class SerialPort : public Print
{
public:
    void begin(unsigned long baud);
    operator bool() const;
};

extern SerialPort Serial;

extern "C" unsigned long millis(void);

void setup(void);
void loop(void);

#endif

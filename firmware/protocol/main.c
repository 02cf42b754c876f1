/* The program around a model: bring the machine up, serve the wire, end when the host goes. */
#include "picoformer/port.h"
#include "picoformer/wire.h"

int main(void) {
    pf_port_init();
    pf_wire_serve();
    pf_port_exit(0);
}

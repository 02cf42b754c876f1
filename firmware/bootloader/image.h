/* The image that a bootloader keeps in its slot: the header before the code, and what has to hold before it is started. */
#ifndef PF_BOOT_IMAGE_H
#define PF_BOOT_IMAGE_H

#include <stdint.h>

#define PF_IMAGE_MAGIC          0x4D494650u /* "PFIM" */
#define PF_IMAGE_HEADER_VERSION 1u
#define PF_IMAGE_TARGET_BYTES   32u

/* The first bytes of the slot, little-endian; the rest of the header's page is not looked at. */
typedef struct pf_image_header {
    uint32_t magic;
    uint16_t header_version;
    uint16_t header_bytes;
    char target[PF_IMAGE_TARGET_BYTES]; /* the target's name, then zeros: at least one */
    uint32_t image_version;             /* whoever builds counts */
    uint32_t length;                    /* of the image in bytes, a multiple of 4 */
    uint32_t load;                      /* where the image lies: one page behind the slot's beginning */
    uint32_t entry;                     /* with the Thumb bit; the vector table's second word too */
    uint8_t identity[16];               /* the model's, as hello says it */
    uint8_t sha256[32];                 /* of the header before this field, then the image */
} pf_image_header;

#define PF_IMAGE_HEADER_BYTES 104u
#define PF_IMAGE_HASHED_BYTES 72u /* of the header */

typedef char pf_image_header_is_packed[sizeof(pf_image_header) == PF_IMAGE_HEADER_BYTES ? 1 : -1];

/* Also the status of a reply that refuses for this reason. */
enum pf_image_state {
    PF_IMAGE_VALID = 0,
    PF_IMAGE_NONE = 0x20,       /* no header: nothing was written, or a transfer was cut short */
    PF_IMAGE_BAD_HEADER = 0x21, /* a header of another version, or a name without an end */
    PF_IMAGE_FOREIGN = 0x22,    /* made for another target */
    PF_IMAGE_OUTSIDE = 0x23,    /* length, place or entry do not fit the slot */
    PF_IMAGE_BAD_HASH = 0x24,   /* what lies there is not what the header says */
    PF_IMAGE_BAD_VECTORS = 0x25 /* the vector table's stack or entry cannot be */
};

/* Where images lie on this board. `memory` is where the slot can be read. */
typedef struct pf_slot {
    const uint8_t *memory;
    uint32_t origin, bytes, page_bytes;
    uint32_t ram_origin, ram_bytes;
    const char *target;
} pf_slot;

/* Whether two runs of bytes are the same (not every compiler here comes with memcmp). */
int pf_bytes_equal(const void *first, const void *second, uint32_t bytes);

/* Whether a header makes sense for the slot; nothing behind it is read. enum pf_image_state. */
uint8_t pf_image_check_header(const pf_slot *slot, const pf_image_header *header);

/* Whether the slot holds the image that `header` tells of, to the last byte. enum pf_image_state. */
uint8_t pf_image_verify(const pf_slot *slot, const pf_image_header *header);

#endif

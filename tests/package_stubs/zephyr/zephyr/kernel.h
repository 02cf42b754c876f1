/* As much of Zephyr's kernel as a sample of ours uses, so that one compiles without it. */
#ifndef ZEPHYR_KERNEL_H
#define ZEPHYR_KERNEL_H

__attribute__((format(printf, 1, 2))) void printk(const char *format, ...);

#endif

/* What the program needs of a LiteX SoC with a VexRiscv: characters, its interrupt, its cache. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

#include "csr.h"
#include "mem.h"
#include "soc.h"
#include "systolith_driver.h"

#define IN_MAIN_RAM __attribute__((section(".main_ram")))

/* The handler of `main.c`, with the lines that are pending, a bit each. */
void handle_interrupts(uint32_t pending);

void put_char(char letter);
void put_text(const char *text);
void put_number(uint32_t value);
void put_hex(uint64_t value);

/* Let these lines interrupt the processor, a bit each; 0 for none. */
void allow_interrupts(uint32_t lines);

/* The hook of systolith_driver.h. */
void maintain_cache(
    void *context, systolith_cache_operation operation, void *start, uint32_t bytes);

#endif

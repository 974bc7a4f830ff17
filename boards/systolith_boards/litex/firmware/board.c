#include "board.h"

/* Registers of VexRiscv's interrupt controller. */
#define INTERRUPT_MASK "0xbc0"
#define INTERRUPT_PENDING "0xfc0"

#define MSTATUS_MIE 0x8u
#define MIE_MEIE 0x800u

extern uint32_t data_start[], data_end[], data_image[], bss_start[], bss_end[];
int main(void);
void prepare(void);

static void put_register(uintptr_t address, uint32_t value) {
    *(volatile uint32_t *)address = value;
}

static uint32_t get_register(uintptr_t address) { return *(const volatile uint32_t *)address; }

__attribute__((naked, section(".start"))) void _start(void) {
    __asm__ volatile("la sp, stack_top\n"
                     "call prepare\n");
}

__attribute__((interrupt("machine"), aligned(4))) static void trap(void) {
    uint32_t cause, pending;
    __asm__ volatile("csrr %0, mcause" : "=r"(cause));
    if (cause >> 31) {
        __asm__ volatile("csrr %0, " INTERRUPT_PENDING : "=r"(pending));
        handle_interrupts(pending);
        return;
    }
    put_text("trap, cause ");
    put_hex(cause);
    put_text("\n\x15");
    for (;;) {}
}

void prepare(void) {
    uint32_t *from = data_image, *to;
    for (to = data_start; to < data_end; to++) *to = *from++;
    for (to = bss_start; to < bss_end; to++) *to = 0;
    __asm__ volatile("csrw mtvec, %0" ::"r"((uintptr_t)trap));
    /* The simulation ends with one of these: ASCII's end of transmission, or its refusal. */
    put_char(main() == 0 ? '\x04' : '\x15');
    for (;;) {}
}

void put_char(char letter) {
    while (get_register(CSR_UART_TXFULL_ADDR)) {}
    put_register(CSR_UART_RXTX_ADDR, (uint8_t)letter);
}

void put_text(const char *text) {
    while (*text) put_char(*text++);
}

void put_number(uint32_t value) {
    if (value >= 10) put_number(value / 10);
    put_char((char)('0' + value % 10));
}

void put_hex(uint64_t value) {
    int digit = 60;
    while (digit && !(value >> digit)) digit -= 4;
    put_text("0x");
    for (; digit >= 0; digit -= 4) put_char("0123456789abcdef"[value >> digit & 15]);
}

void allow_interrupts(uint32_t lines) {
    __asm__ volatile("csrw " INTERRUPT_MASK ", %0" ::"r"(lines));
    __asm__ volatile("csrw mie, %0" ::"r"(MIE_MEIE));
    __asm__ volatile("csrs mstatus, %0" ::"r"(MSTATUS_MIE));
}

void maintain_cache(
    void *context, systolith_cache_operation operation, void *start, uint32_t bytes) {
    (void)context, (void)start, (void)bytes;
#ifdef CONFIG_CPU_HAS_DCACHE
    /* VexRiscv writes through, and forgets everything by one instruction of its own. */
    if (operation == SYSTOLITH_AFTER_WRITE) __asm__ volatile(".word 0x500f" ::: "memory");
#else
    (void)operation;
#endif
}

/* Driver of a Systolith core: freestanding C99 that needs stddef.h, stdint.h and systolith.h.
 *
 *   systolith core = {.registers = 0x90000000u};
 *   systolith_probe(&core);
 *   systolith_load(&core, &program, input, output, scratch);
 *   systolith_start(&core);
 *   while (systolith_finish(&core) == SYSTOLITH_E_BUSY) {}
 *
 * Nothing here allocates, blocks without a bound, or keeps state outside of the `systolith` that it
 * is given. Calls for one core must not overlap; `systolith_acknowledge` may interrupt any other.
 */
#ifndef SYSTOLITH_DRIVER_H
#define SYSTOLITH_DRIVER_H

#include <stddef.h>
#include <stdint.h>

#include "systolith.h"

#ifdef __cplusplus
extern "C" {
#endif

/* An array that a base may point to. Define it for compilers that spell it in another way. */
#ifndef SYSTOLITH_ALIGNED
#define SYSTOLITH_ALIGNED __attribute__((aligned(SYSTOLITH_BASE_ALIGNMENT)))
#endif

/* What a call returns: SYSTOLITH_OK, or why it did nothing. */
typedef enum {
    SYSTOLITH_OK = 0,
    SYSTOLITH_E_NO_CORE = -1,    /* no Systolith at this address, or of another instruction set */
    SYSTOLITH_E_OTHER_CORE = -2, /* the program was compiled for another configuration */
    SYSTOLITH_E_ARGUMENT = -3,   /* an index out of range, or a pointer that is missing */
    SYSTOLITH_E_ALIGNMENT = -4,  /* an address for a base is no multiple of 64 */
    SYSTOLITH_E_BUSY = -5,       /* a program is running */
    SYSTOLITH_E_FAULT = -6,      /* the core stopped the program; reset it before the next one */
    SYSTOLITH_E_IDLE = -7        /* no program has been started since the reset */
} systolith_result;

/* Who touches a buffer. */
typedef enum {
    SYSTOLITH_CORE_READS = 1,
    SYSTOLITH_CORE_WRITES = 2
} systolith_access;

/* What a data cache is asked for. */
typedef enum {
    SYSTOLITH_BEFORE_READ = 0,  /* write dirty lines back: the core is going to read memory */
    SYSTOLITH_BEFORE_WRITE = 1, /* and forget them: the core is going to write memory */
    SYSTOLITH_AFTER_WRITE = 2   /* forget lines: the core has written memory */
} systolith_cache_operation;

/* Memory behind a base. */
typedef struct {
    void *start;
    uint32_t bytes;
    uint32_t access;
} systolith_buffer;

/* A core. Set `registers`, and the hooks that the system needs; leave the rest zero. */
typedef struct {
    uintptr_t registers; /* where its AXI4-Lite port is */
    /* For each buffer, before START and after the end; NULL where all memory is coherent. */
    void (*cache)(void *context, systolith_cache_operation operation, void *start, uint32_t bytes);
    /* The address that the core uses for a pointer of this processor; NULL if they are the same. */
    uint64_t (*address)(void *context, const void *start);
    void *context; /* for the hooks */
    systolith_buffer buffers[SYSTOLITH_BASES];
} systolith;

/* A tensor in the memory of inputs or outputs: rows without gaps, little endian. */
typedef struct {
    const char *name;
    uint32_t offset; /* from the start of that memory */
    uint32_t bytes;
    uint32_t rows;
    uint32_t columns;
    uint8_t element_bytes;
    uint8_t is_signed;
} systolith_tensor;

/* A compiled program, as `systolith driver --program` writes it. */
typedef struct {
    const char *name;
    uint64_t config_hash;
    const void *code;
    uint32_t code_bytes;
    const void *image; /* parameters */
    uint32_t image_bytes;
    uint32_t input_bytes; /* of the memory that `systolith_load` is given */
    uint32_t output_bytes;
    uint32_t scratch_bytes;
    uint32_t length; /* longest sequence */
    const systolith_tensor *inputs;
    uint32_t input_count;
    const systolith_tensor *outputs;
    uint32_t output_count;
} systolith_program;

/* Why a program was stopped. */
typedef struct {
    uint32_t cause;       /* SYSTOLITH_FAULT_CAUSE_... */
    uint32_t engine;      /* SYSTOLITH_ENGINE_..., or SYSTOLITH_NO_ENGINE */
    uint32_t instruction; /* its index in the program */
    uint32_t tag;
    uint64_t address; /* as the core sees memory, or in its scratchpad */
} systolith_fault;

/* What one engine did in a run; `busy` and `stall` are 0 if the core does not count them. */
typedef struct {
    uint32_t retired;
    uint64_t busy;
    uint64_t stall;
} systolith_engine_counters;

/* What a run cost. Beats have the width of the core's memory port. */
typedef struct {
    uint64_t cycles;
    uint64_t read_beats;
    uint64_t write_beats;
    uint32_t bank_clashes;
    uint32_t halt_code;
    uint32_t has_stalls; /* whether the core counts what engines are busy with */
    systolith_engine_counters engines[SYSTOLITH_ENGINE_ROW + 1]; /* by SYSTOLITH_ENGINE_... */
} systolith_counters;

/* See whether there is a core of this driver's instruction set. */
systolith_result systolith_probe(const systolith *core);

/* The configuration that the core was built with. */
uint64_t systolith_config_hash(const systolith *core);

/* Let a base point to memory: the core then reaches these bytes and no other ones.
 * With bytes 0 it reaches none. `access` is SYSTOLITH_CORE_READS and SYSTOLITH_CORE_WRITES, or'ed. */
systolith_result systolith_set_base(
    systolith *core, uint32_t base, void *start, uint32_t bytes, uint32_t access);

/* Set a run-time scalar; scalar 0 is the number of valid rows in compiled programs. */
systolith_result systolith_set_scalar(const systolith *core, uint32_t scalar, uint32_t value);

/* Fault after so many cycles without a retired instruction; 0 for never. */
void systolith_set_watchdog(const systolith *core, uint32_t cycles);

/* Set everything that a program needs. Memory that it does not use may be NULL. */
systolith_result systolith_load(
    systolith *core, const systolith_program *program, void *input, void *output, void *scratch);

/* Start what has been loaded. The caller keeps off the buffers until the end. */
systolith_result systolith_start(systolith *core);

/* See whether the run has ended: SYSTOLITH_E_BUSY if not. Else the interrupt is acknowledged, and
 * with SYSTOLITH_OK, outputs can be read. */
systolith_result systolith_finish(systolith *core);

/* The same, looking so many times; SYSTOLITH_E_BUSY when that was not enough. */
systolith_result systolith_wait(systolith *core, uint32_t polls);

/* Raise `irq` at the end of programs, or do not. */
void systolith_enable_interrupt(const systolith *core, int enable);

/* Lower `irq`; to be called in the interrupt's handler. Returns whether it was this core's. */
int systolith_acknowledge(const systolith *core);

/* Stop a running program; it ends with the cause ABORT once memory owes it nothing. */
void systolith_abort(const systolith *core);

/* Make the core idle from any state, and acknowledge. Bases, limits and scalars stay.
 * SYSTOLITH_E_BUSY if memory still owes it something after so many looks. */
systolith_result systolith_reset(systolith *core, uint32_t polls);

/* Why the last run was stopped; cause 0 if it was not. */
void systolith_read_fault(const systolith *core, systolith_fault *fault);

/* What the last run cost. */
void systolith_read_counters(const systolith *core, systolith_counters *counters);

/* Names for messages; "?" for a number that has none. */
const char *systolith_cause_name(uint32_t cause);
const char *systolith_engine_name(uint32_t engine);

#ifdef __cplusplus
}
#endif

#endif

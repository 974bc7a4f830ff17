#include "systolith_driver.h"

/* Registers are words of the bus. Define both where that is not a plain access of memory. */
#ifndef SYSTOLITH_READ
#define SYSTOLITH_READ(address) (*(const volatile uint32_t *)(address))
#endif
#ifndef SYSTOLITH_WRITE
#define SYSTOLITH_WRITE(address, value) (*(volatile uint32_t *)(address) = (value))
#endif

/* What was stored to memory is there before a register is written, and the reverse. */
#ifndef SYSTOLITH_BARRIER
#if defined(__riscv)
#define SYSTOLITH_BARRIER() __asm__ volatile("fence iorw, iorw" ::: "memory")
#elif defined(__aarch64__)
#define SYSTOLITH_BARRIER() __asm__ volatile("dsb sy" ::: "memory")
#else
#define SYSTOLITH_BARRIER() __sync_synchronize()
#endif
#endif

#define BASE_STRIDE (SYSTOLITH_CSR_BASE1_LO - SYSTOLITH_CSR_BASE0_LO)
#define ENGINE_STRIDE (SYSTOLITH_CSR_LOAD_RETIRED - SYSTOLITH_CSR_STREAM_RETIRED)
#define ENGINES (sizeof(((systolith_counters *)0)->engines) / sizeof(systolith_engine_counters))

/* The bases of compiled programs. */
enum { CODE, IMAGE, INPUT, OUTPUT, SCRATCH };

static uint32_t get(const systolith *core, uint32_t offset) {
    return SYSTOLITH_READ(core->registers + offset);
}

static void set(const systolith *core, uint32_t offset, uint32_t value) {
    SYSTOLITH_WRITE(core->registers + offset, value);
}

static void command(const systolith *core, uint32_t bit) {
    set(core, SYSTOLITH_CSR_CONTROL, 1u << bit);
}

/* A counter may carry between the reads of its halves. */
static uint64_t get64(const systolith *core, uint32_t offset) {
    uint32_t high = get(core, offset + 4), low, before;
    do {
        before = high;
        low = get(core, offset);
        high = get(core, offset + 4);
    } while (high != before);
    return (uint64_t)high << 32 | low;
}

static void set64(const systolith *core, uint32_t offset, uint64_t value) {
    set(core, offset, (uint32_t)value);
    set(core, offset + 4, (uint32_t)(value >> 32));
}

static int is_running(uint32_t state) {
    return state == SYSTOLITH_STATE_RUN || state == SYSTOLITH_STATE_FAULTING;
}

systolith_result systolith_probe(const systolith *core) {
    if (get(core, SYSTOLITH_CSR_ID) != SYSTOLITH_MAGIC) return SYSTOLITH_E_NO_CORE;
    if (get(core, SYSTOLITH_CSR_VERSION) != SYSTOLITH_ISA_VERSION) return SYSTOLITH_E_NO_CORE;
    return SYSTOLITH_OK;
}

uint64_t systolith_config_hash(const systolith *core) {
    return get64(core, SYSTOLITH_CSR_CONFIG_HASH_LO);
}

systolith_result systolith_set_base(
    systolith *core, uint32_t base, void *start, uint32_t bytes, uint32_t access) {
    uint64_t address = 0;
    if (base >= SYSTOLITH_BASES || (bytes && !start)) return SYSTOLITH_E_ARGUMENT;
    if (bytes)
        address = core->address ? core->address(core->context, start) : (uint64_t)(uintptr_t)start;
    if (address % SYSTOLITH_BASE_ALIGNMENT) return SYSTOLITH_E_ALIGNMENT;
    if (is_running(get(core, SYSTOLITH_CSR_STATUS))) return SYSTOLITH_E_BUSY;
    set64(core, SYSTOLITH_CSR_BASE0_LO + BASE_STRIDE * base, address);
    set(core, SYSTOLITH_CSR_LIMIT0 + BASE_STRIDE * base, bytes);
    core->buffers[base].start = start;
    core->buffers[base].bytes = bytes;
    core->buffers[base].access = access;
    return SYSTOLITH_OK;
}

systolith_result systolith_set_scalar(const systolith *core, uint32_t scalar, uint32_t value) {
    if (scalar >= SYSTOLITH_SCALARS) return SYSTOLITH_E_ARGUMENT;
    set(core, SYSTOLITH_CSR_SCALAR0 + 4 * scalar, value);
    return SYSTOLITH_OK;
}

void systolith_set_watchdog(const systolith *core, uint32_t cycles) {
    set(core, SYSTOLITH_CSR_WATCHDOG, cycles);
}

systolith_result systolith_load(
    systolith *core, const systolith_program *program, void *input, void *output, void *scratch) {
    void *starts[SYSTOLITH_BASES];
    uint32_t bytes[SYSTOLITH_BASES], base;
    systolith_result result;
    for (base = 0; base < SYSTOLITH_BASES; base++) {
        starts[base] = NULL;
        bytes[base] = 0;
    }
    /* The core only reads code and image: nothing casts away what the linker made constant. */
    starts[CODE] = (void *)(uintptr_t)program->code;
    bytes[CODE] = program->code_bytes;
    starts[IMAGE] = (void *)(uintptr_t)program->image;
    bytes[IMAGE] = program->image_bytes;
    starts[INPUT] = input;
    bytes[INPUT] = program->input_bytes;
    starts[OUTPUT] = output;
    bytes[OUTPUT] = program->output_bytes;
    starts[SCRATCH] = scratch;
    bytes[SCRATCH] = program->scratch_bytes;
    if (systolith_config_hash(core) != program->config_hash) return SYSTOLITH_E_OTHER_CORE;
    for (base = 0; base < SYSTOLITH_BASES; base++) {
        uint32_t access = SYSTOLITH_CORE_READS;
        if (base >= OUTPUT) access |= SYSTOLITH_CORE_WRITES;
        result = systolith_set_base(core, base, starts[base], bytes[base], access);
        if (result != SYSTOLITH_OK) return result;
    }
    set64(core, SYSTOLITH_CSR_PROGRAM_HASH_LO, program->config_hash);
    set(core, SYSTOLITH_CSR_PROGRAM_SIZE, program->code_bytes / SYSTOLITH_INSTRUCTION_BYTES);
    return systolith_set_scalar(core, 0, program->length);
}

static void maintain(systolith *core, int before) {
    uint32_t base;
    if (!core->cache) return;
    for (base = 0; base < SYSTOLITH_BASES; base++) {
        systolith_buffer *buffer = &core->buffers[base];
        int written = (buffer->access & SYSTOLITH_CORE_WRITES) != 0;
        if (!buffer->bytes || (!before && !written)) continue;
        core->cache(
            core->context,
            !before ? SYSTOLITH_AFTER_WRITE
                    : written ? SYSTOLITH_BEFORE_WRITE : SYSTOLITH_BEFORE_READ,
            buffer->start, buffer->bytes);
    }
}

systolith_result systolith_start(systolith *core) {
    uint32_t state = get(core, SYSTOLITH_CSR_STATUS);
    if (is_running(state)) return SYSTOLITH_E_BUSY;
    if (state == SYSTOLITH_STATE_FAULT) return SYSTOLITH_E_FAULT;
    maintain(core, 1);
    SYSTOLITH_BARRIER();
    command(core, SYSTOLITH_CONTROL_START);
    return SYSTOLITH_OK;
}

systolith_result systolith_finish(systolith *core) {
    uint32_t state = get(core, SYSTOLITH_CSR_STATUS);
    if (is_running(state)) return SYSTOLITH_E_BUSY;
    if (state == SYSTOLITH_STATE_IDLE) return SYSTOLITH_E_IDLE;
    SYSTOLITH_BARRIER();
    maintain(core, 0);
    SYSTOLITH_BARRIER();
    command(core, SYSTOLITH_CONTROL_ACKNOWLEDGE);
    return state == SYSTOLITH_STATE_FAULT ? SYSTOLITH_E_FAULT : SYSTOLITH_OK;
}

systolith_result systolith_wait(systolith *core, uint32_t polls) {
    systolith_result result = SYSTOLITH_E_BUSY;
    while (polls-- && result == SYSTOLITH_E_BUSY) result = systolith_finish(core);
    return result;
}

void systolith_enable_interrupt(const systolith *core, int enable) {
    set(core, SYSTOLITH_CSR_INTERRUPT_ENABLE, enable != 0);
}

int systolith_acknowledge(const systolith *core) {
    if (!(get(core, SYSTOLITH_CSR_INTERRUPT_PENDING) & 1)) return 0;
    command(core, SYSTOLITH_CONTROL_ACKNOWLEDGE);
    return 1;
}

void systolith_abort(const systolith *core) { command(core, SYSTOLITH_CONTROL_ABORT); }

systolith_result systolith_reset(systolith *core, uint32_t polls) {
    command(core, SYSTOLITH_CONTROL_RESET);
    while (polls--) {
        if (get(core, SYSTOLITH_CSR_STATUS) != SYSTOLITH_STATE_IDLE) continue;
        SYSTOLITH_BARRIER();
        maintain(core, 0);
        SYSTOLITH_BARRIER();
        command(core, SYSTOLITH_CONTROL_ACKNOWLEDGE);
        return SYSTOLITH_OK;
    }
    return SYSTOLITH_E_BUSY;
}

void systolith_read_fault(const systolith *core, systolith_fault *fault) {
    fault->cause = get(core, SYSTOLITH_CSR_FAULT_CAUSE);
    fault->engine = get(core, SYSTOLITH_CSR_FAULT_ENGINE);
    fault->instruction = get(core, SYSTOLITH_CSR_FAULT_PC);
    fault->tag = get(core, SYSTOLITH_CSR_FAULT_TAG);
    fault->address = get64(core, SYSTOLITH_CSR_FAULT_ADDRESS_LO);
}

void systolith_read_counters(const systolith *core, systolith_counters *counters) {
    uint32_t engine, capabilities = get(core, SYSTOLITH_CSR_CAPABILITIES);
    counters->cycles = get64(core, SYSTOLITH_CSR_CYCLES_LO);
    counters->read_beats = get64(core, SYSTOLITH_CSR_READ_BEATS_LO);
    counters->write_beats = get64(core, SYSTOLITH_CSR_WRITE_BEATS_LO);
    counters->bank_clashes = get(core, SYSTOLITH_CSR_BANK_CLASHES);
    counters->halt_code = get(core, SYSTOLITH_CSR_HALT_CODE);
    counters->has_stalls = capabilities >> SYSTOLITH_CAPABILITY_STALL_COUNTERS & 1;
    for (engine = 0; engine < ENGINES; engine++) {
        systolith_engine_counters *each = &counters->engines[engine];
        uint32_t at = ENGINE_STRIDE * engine;
        each->retired = get(core, SYSTOLITH_CSR_STREAM_RETIRED + at);
        each->busy = get64(core, SYSTOLITH_CSR_STREAM_BUSY_LO + at);
        each->stall = get64(core, SYSTOLITH_CSR_STREAM_STALL_LO + at);
    }
}

const char *systolith_cause_name(uint32_t cause) {
    switch (cause) {
    case SYSTOLITH_FAULT_CAUSE_NONE: return "none";
    case SYSTOLITH_FAULT_CAUSE_ILLEGAL_INSTRUCTION: return "illegal instruction";
    case SYSTOLITH_FAULT_CAUSE_SCRATCHPAD_BOUND: return "scratchpad bound";
    case SYSTOLITH_FAULT_CAUSE_DRAM_LIMIT: return "DRAM limit";
    case SYSTOLITH_FAULT_CAUSE_AXI_ERROR: return "AXI error";
    case SYSTOLITH_FAULT_CAUSE_WATCHDOG: return "watchdog";
    case SYSTOLITH_FAULT_CAUSE_CONFIG_MISMATCH: return "configuration mismatch";
    case SYSTOLITH_FAULT_CAUSE_ABORT: return "abort";
    default: return "?";
    }
}

const char *systolith_engine_name(uint32_t engine) {
    switch (engine) {
    case SYSTOLITH_ENGINE_STREAM: return "STREAM";
    case SYSTOLITH_ENGINE_LOAD: return "LOAD";
    case SYSTOLITH_ENGINE_STORE: return "STORE";
    case SYSTOLITH_ENGINE_GEMM: return "GEMM";
    case SYSTOLITH_ENGINE_VECTOR: return "VECTOR";
    case SYSTOLITH_ENGINE_ROW: return "ROW";
    case SYSTOLITH_NO_ENGINE: return "control";
    default: return "?";
    }
}

/* Run a program on the core, by polling and by interrupt, and again after faults. */
#include "board.h"
#include "selftest.h"

#define POLLS 100000u
#define RUBBISH 0xa5

static systolith core = {.registers = NPU_BASE, .cache = maintain_cache};
static volatile uint32_t interrupts;

/* The core reads code and parameters where they are, in ROM; the rest is in main RAM. */
static uint8_t input[SELFTEST_INPUT_BYTES] SYSTOLITH_ALIGNED IN_MAIN_RAM;
static uint8_t output[SELFTEST_OUTPUT_BYTES] SYSTOLITH_ALIGNED IN_MAIN_RAM;
static uint8_t changed_code[SELFTEST_CODE_BYTES] SYSTOLITH_ALIGNED IN_MAIN_RAM;

void handle_interrupts(uint32_t pending) {
    if (pending >> NPU_INTERRUPT & 1) interrupts += (uint32_t)systolith_acknowledge(&core);
}

static uint32_t wrong_bytes(void) {
    uint32_t at, wrong = 0;
    for (at = 0; at < SELFTEST_OUTPUT_BYTES; at++) wrong += output[at] != selftest_test_output[at];
    return wrong;
}

/* Whether the output is as the instruction simulator had it, and was not before. */
static int run(const char *how, int by_interrupt) {
    systolith_result result;
    systolith_counters counters;
    uint32_t at, seen = interrupts, wrong;
    for (at = 0; at < SELFTEST_INPUT_BYTES; at++) input[at] = selftest_test_input[at];
    for (at = 0; at < SELFTEST_OUTPUT_BYTES; at++) output[at] = RUBBISH;
    put_text(how);
    put_text(": ");
    if (wrong_bytes() < SELFTEST_OUTPUT_BYTES / 2) return put_text("right too early\n"), 0;
    systolith_enable_interrupt(&core, by_interrupt);
    result = systolith_start(&core);
    if (result == SYSTOLITH_OK && by_interrupt)
        for (at = 0; at < POLLS && interrupts == seen; at++) {}
    if (result == SYSTOLITH_OK) result = systolith_wait(&core, by_interrupt ? 1 : POLLS);
    wrong = wrong_bytes();
    systolith_read_counters(&core, &counters);
    put_text("result ");
    put_number((uint32_t)-result);
    put_text(", ");
    put_number(interrupts - seen);
    put_text(" interrupts, ");
    put_number(wrong);
    put_text(" wrong bytes of ");
    put_number(SELFTEST_OUTPUT_BYTES);
    put_text(", ");
    put_number((uint32_t)counters.cycles);
    put_text(" cycles\n");
    return result == SYSTOLITH_OK && !wrong && interrupts - seen == (uint32_t)by_interrupt;
}

/* Whether the core stops with this cause, at this instruction, and says so. */
static int fault(uint32_t cause, uint32_t instruction, uint64_t address) {
    systolith_fault report;
    if (systolith_start(&core) != SYSTOLITH_OK) return 0;
    if (systolith_wait(&core, POLLS) != SYSTOLITH_E_FAULT) return 0;
    systolith_read_fault(&core, &report);
    put_text("fault: ");
    put_text(systolith_cause_name(report.cause));
    put_text(", ");
    put_text(systolith_engine_name(report.engine));
    put_text(", instruction ");
    put_number(report.instruction);
    put_text(", address ");
    put_hex(report.address);
    put_char('\n');
    if (systolith_start(&core) != SYSTOLITH_E_FAULT) return 0;
    return report.cause == cause && report.instruction == instruction &&
           report.address == address && systolith_reset(&core, POLLS) == SYSTOLITH_OK;
}

static int test(void) {
    const uint32_t last = SELFTEST_CODE_BYTES / SYSTOLITH_INSTRUCTION_BYTES - 1, broken = 4;
    const uint32_t missing = SELFTEST_OUTPUT_BYTES - 1;
    const uint8_t *code = selftest.code;
    uint32_t at;
    if (systolith_probe(&core) != SYSTOLITH_OK) return put_text("no core\n"), 0;
    put_text("core with configuration ");
    put_hex(systolith_config_hash(&core));
    put_char('\n');
    if (systolith_load(&core, &selftest, input, output, NULL) != SYSTOLITH_OK) return 0;
    if (!run("polling", 0) || !run("interrupt", 1)) return 0;
    systolith_enable_interrupt(&core, 0);

    /* A copy of the program with an operator that does not exist. */
    for (at = 0; at < SELFTEST_CODE_BYTES; at++) changed_code[at] = code[at];
    at = broken * SYSTOLITH_INSTRUCTION_BYTES;
    changed_code[at + SYSTOLITH_HEADER_OPCODE_OFFSET] = 0xee;
    if (systolith_set_base(
            &core, 0, changed_code, SELFTEST_CODE_BYTES, SYSTOLITH_CORE_READS) != SYSTOLITH_OK)
        return 0;
    if (!fault(SYSTOLITH_FAULT_CAUSE_ILLEGAL_INSTRUCTION, broken, 0)) return 0;
    if (systolith_load(&core, &selftest, input, output, NULL) != SYSTOLITH_OK) return 0;
    if (!run("after the fault", 0)) return 0;

    /* The core may not write the last byte, and says where that is. */
    if (systolith_set_base(&core, 3, output, missing, SYSTOLITH_CORE_WRITES) != SYSTOLITH_OK)
        return 0;
    if (!fault(SYSTOLITH_FAULT_CAUSE_DRAM_LIMIT, last - 1, (uintptr_t)output + missing)) return 0;
    if (systolith_load(&core, &selftest, input, output, NULL) != SYSTOLITH_OK) return 0;
    return run("after the limit", 1);
}

int main(void) {
    int passed;
    allow_interrupts(1u << NPU_INTERRUPT);
    passed = test();
    put_text(passed ? "PASS\n" : "FAIL\n");
    return !passed;
}

// The SoC in Verilator: a clock, a reset, and what its UART says on standard output.
//
// usage: simulate CYCLES
//
// It is started where soc_rom.init is. It ends with 0 at ASCII's end of transmission, with 1 at
// its refusal, and with 2 after CYCLES.

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "Vsoc.h"
#include "verilated.h"

namespace {

constexpr char END = 0x04;
constexpr char REFUSED = 0x15;
constexpr uint64_t RESET_CYCLES = 16;

}  // namespace

int main(int count, char **arguments) {
    if (count != 2) {
        std::fprintf(stderr, "usage: %s CYCLES\n", arguments[0]);
        return 3;
    }
    const uint64_t limit = std::strtoull(arguments[1], nullptr, 10);
    const auto context = std::make_unique<VerilatedContext>();
    const auto soc = std::make_unique<Vsoc>(context.get());
    soc->serial_source_ready = 1;
    soc->serial_sink_valid = 0;
    soc->serial_sink_data = 0;
    for (uint64_t cycle = 0; cycle < limit; cycle++) {
        soc->rst = cycle < RESET_CYCLES;
        soc->clk = 0;
        soc->eval();
        // Outputs are those of the cycle that the next edge ends.
        const bool valid = soc->serial_source_valid && !soc->rst;
        const char letter = static_cast<char>(soc->serial_source_data);
        soc->clk = 1;
        soc->eval();
        if (!valid) continue;
        if (letter == END || letter == REFUSED) {
            std::printf("ended after %" PRIu64 " cycles\n", cycle);
            return letter == END ? 0 : 1;
        }
        std::putchar(letter);
    }
    std::printf("not ended after %" PRIu64 " cycles\n", limit);
    return 2;
}

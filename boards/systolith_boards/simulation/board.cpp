// A verilated board, free-running, with its UART at a pseudo-terminal.
//
// Prints the terminal's name, then runs until its standard input ends. Ends with 3 as soon as a rule
// of the memory chip is broken. Compiled with -DDIVISOR=cycles of a bit.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>

#include <fcntl.h>
#include <poll.h>
#include <termios.h>
#include <unistd.h>

#include "Vboard.h"
#include "verilated.h"

double sc_time_stamp() { return 0; }

namespace {

constexpr int CHUNK = 2000;        // cycles between two looks at the terminal
constexpr int READ_AHEAD = 4096;   // bytes taken from the terminal before they are sent
constexpr int VIOLATION = 3;

// Sends bytes bit by bit: a start bit, eight bits, a stop bit.
class Sender {
  public:
    void push(uint8_t byte) { bytes_.push_back(byte); }
    size_t waiting() const { return bytes_.size(); }

    bool level() {
        if (cycle_ == 0 && bit_ == 0) {
            if (bytes_.empty()) return true;
            frame_ = 0x200u | bytes_.front() << 1;
            bytes_.pop_front();
        }
        const bool now = frame_ >> bit_ & 1;
        if (++cycle_ == DIVISOR) {
            cycle_ = 0;
            bit_ = bit_ == 9 ? 0 : bit_ + 1;
        }
        return now;
    }

  private:
    std::deque<uint8_t> bytes_;
    uint32_t frame_ = 0;
    int bit_ = 0, cycle_ = 0;
};

// Receives them, looking at the middle of each bit.
class Receiver {
  public:
    // Whether a byte has come; it is `byte`.
    bool look(bool level) {
        if (!receiving_) {
            if (level) return false;
            receiving_ = true;
            cycle_ = 0;
        }
        const int bit = cycle_ / DIVISOR;
        if (cycle_ % DIVISOR == DIVISOR / 2 && bit >= 1 && bit <= 8) byte = byte >> 1 | level << 7;
        if (++cycle_ < 9 * DIVISOR + DIVISOR / 2) return false;
        receiving_ = false;
        return true;
    }

    uint8_t byte = 0;

  private:
    bool receiving_ = false;
    int cycle_ = 0;
};

int open_terminal() {
    const int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
    if (terminal < 0 || grantpt(terminal) || unlockpt(terminal)) return -1;
    const char* name = ptsname(terminal);
    // Kept open, so that the terminal outlives whoever uses it.
    const int user = name ? open(name, O_RDWR | O_NOCTTY) : -1;
    if (user < 0) return -1;
    termios settings;
    tcgetattr(user, &settings);
    cfmakeraw(&settings);
    tcsetattr(user, TCSANOW, &settings);
    std::printf("%s\n", name);
    std::fflush(stdout);
    return terminal;
}

bool input_ended() {
    pollfd input = {STDIN_FILENO, POLLIN, 0};
    char byte;
    return poll(&input, 1, 0) > 0 && read(STDIN_FILENO, &byte, 1) <= 0;
}

}  // namespace

int main() {
    const int terminal = open_terminal();
    if (terminal < 0) {
        std::fprintf(stderr, "there is no pseudo-terminal\n");
        return 1;
    }
    auto context = std::make_unique<VerilatedContext>();
    auto board = std::make_unique<Vboard>(context.get());
    Sender sender;
    Receiver receiver;
    std::deque<uint8_t> answers;
    uint64_t cycles = 0;
    while (!input_ended()) {
        uint8_t bytes[READ_AHEAD];
        if (sender.waiting() < READ_AHEAD) {
            const ssize_t count = read(terminal, bytes, READ_AHEAD - sender.waiting());
            for (ssize_t i = 0; i < count; ++i) sender.push(bytes[i]);
        }
        for (int i = 0; i < CHUNK; ++i, ++cycles) {
            board->rst = cycles < 4;
            board->rx = sender.level();
            board->clk = 0;
            board->eval();
            if (receiver.look(board->tx)) answers.push_back(receiver.byte);
            board->clk = 1;
            board->eval();
        }
        while (!answers.empty() && write(terminal, &answers.front(), 1) == 1) answers.pop_front();
        if (board->violations) {
            std::fprintf(stderr, "rules of the memory chip are broken: %#llx\n",
                         static_cast<unsigned long long>(board->violations));
            return VIOLATION;
        }
    }
    board->final();
    std::fprintf(stderr, "%llu\n", static_cast<unsigned long long>(cycles));
    return 0;
}

// The world around a verilated core: AXI4 memory, AXI4-Lite host, protocol checker, probe.
//
// `systolith_sim.memory_model` says what the memory does and when; this is the same machine in
// C++, cycle for cycle. One cycle is: drive the inputs, settle, look at the handshakes, clock edge.
//
// Compiled with -DVERILATED for a model of Verilator's, -DPROBED for a core with a probe, -DTRACED for
// waveforms.

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "Vcore.h"
#include "verilated.h"
#ifdef TRACED
#include "verilated_vcd_c.h"
#endif

double sc_time_stamp() { return 0; }

// What Verilator's eval() calls between locks and queues for threads and messages, which this model has none
// of: 2 % of a simulation. Not documented, so it may be missing from another version.
#if defined(VERILATED) && !defined(TRACED)
#define WITHOUT_LOCKS
void Vcore___024root___eval(Vcore___024root*) __attribute__((weak));
#endif

namespace {

constexpr int ENGINES = 6;
constexpr int IDS = 4;
constexpr int TOKEN_SHIFT = 16;   // tokens of the bandwidth bucket: bytes in units of 2**-16
constexpr int STALL_BITS = 10;    // a stall probability is a threshold of as many bits
constexpr int CSR_PATIENCE = 10000;

enum Result { RAN = 0, INTERRUPT = 1, VIOLATION = 2 };

struct Options {
    uint64_t memory_bytes;
    uint64_t scratchpad_bytes;
    uint64_t bandwidth;    // bytes per cycle << TOKEN_SHIFT
    uint64_t seed;
    uint32_t latency;      // cycles from an accepted address to its first beat
    uint32_t outstanding;  // bursts that wait, in each direction
    uint32_t stall;        // probability << STALL_BITS
    uint32_t interleave;   // whether beats of different IDs mix
};

struct Watch {
    uint8_t* target;
    uint32_t engine;
    uint32_t count;
    uint64_t address;    // bytes
    uint64_t row;        // bytes from row to row
    uint64_t rows;
    uint64_t row_bytes;
    uint32_t captured;   // set by the harness
    uint32_t padding;
};

struct Retirement {
    uint64_t cycle;    // the first one in which the progress count shows it
    uint32_t engine;
    uint32_t count;    // of the engine's retired instructions, this one included
};

struct Counters {
    uint64_t cycles;
    uint64_t read_beats;
    uint64_t write_beats;
    uint64_t pending;    // transactions that are not finished
};

struct Address {
    uint64_t address;
    uint32_t id, length, size, burst, lock;
    bool operator==(const Address&) const = default;
};

struct Beat {
    uint64_t strobe;
    uint32_t last;
    uint8_t data[64];
};

struct Burst {
    uint64_t address;
    uint64_t ready_at;
    uint32_t id, beats;
    bool error;
};


struct Random {  // splitmix64
    uint64_t state;
    uint64_t next() {
        uint64_t z = (state += 0x9E3779B97F4A7C15ull);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        return z ^ (z >> 31);
    }
};

class Harness {
  public:
    Harness(uint8_t* memory, const Options& options)
        : memory_(memory), options_(options), random_{options.seed},
          context_(new VerilatedContext) {
#ifdef TRACED
        context_->traceEverOn(true);
#endif
        core_.reset(new Vcore(context_.get(), "core"));
        beat_ = sizeof(core_->m_axi_rdata);
        tokens_per_beat_ = uint64_t(beat_) << TOKEN_SHIFT;
        bucket_ = tokens_per_beat_ + options.bandwidth;
#ifdef PROBED
        mirror_.resize(options.scratchpad_bytes);
#endif
        reset(4);
    }

    ~Harness() { trace_stop(); core_->final(); }

    // Whatever is under way: the memory forgets it, too.
    void reset(uint32_t cycles) {
        core_->s_axil_awvalid = core_->s_axil_wvalid = core_->s_axil_arvalid = 0;
        core_->s_axil_bready = core_->s_axil_rready = 0;
        core_->s_axil_awprot = core_->s_axil_arprot = 0;
        core_->m_axi_arready = core_->m_axi_awready = core_->m_axi_wready = 0;
        core_->m_axi_rvalid = core_->m_axi_bvalid = 0;
        reads_.clear(); writes_.clear(); responses_.clear();
        read_held_ = write_held_ = beat_held_ = false;
        take_read_ = take_response_ = wants_write_ = write_turn_ = false;
        tokens_ = bucket_;
        core_->rst = 1;
        for (uint32_t i = 0; i < cycles; ++i) { settle(); edge(); }
        core_->rst = 0;
        message_[0] = 0;
        drive();
    }

    int run(uint64_t cycles, bool until_interrupt) {
        for (uint64_t i = 0; i < cycles; ++i) {
            settle();
            if (until_interrupt && core_->irq) return INTERRUPT;
            if (!finish_cycle()) return VIOLATION;
        }
        return RAN;
    }

    // One register access, as many cycles as the core takes for it.
    int write_register(uint32_t offset, uint32_t value) {
        Vcore& c = *core_;
        c.s_axil_awaddr = offset;
        c.s_axil_wdata = value;
        c.s_axil_wstrb = 15;
        bool address_done = false, data_done = false;
        for (int i = 0; i < CSR_PATIENCE; ++i) {
            const uint64_t stalls = options_.stall ? random_.next() : ~uint64_t(0);
            c.s_axil_awvalid |= !address_done && !stalled(stalls, 0);
            c.s_axil_wvalid |= !data_done && !stalled(stalls, 1);
            c.s_axil_bready = !stalled(stalls, 2);
            settle();
            if (c.s_axil_bvalid && !(address_done && data_done))
                return failed("AXI4-Lite: a response before address and data of a write");
            address_done |= c.s_axil_awvalid && c.s_axil_awready;
            data_done |= c.s_axil_wvalid && c.s_axil_wready;
            const bool done = c.s_axil_bvalid && c.s_axil_bready;
            const unsigned response = c.s_axil_bresp;
            if (!finish_cycle()) return VIOLATION;
            if (address_done) c.s_axil_awvalid = 0;
            if (data_done) c.s_axil_wvalid = 0;
            if (!done) continue;
            c.s_axil_bready = 0;
            if (!response) return RAN;
            return failed("AXI4-Lite: write of register 0x%x: response %u", offset, response);
        }
        return failed("AXI4-Lite: no answer from register 0x%x in %d cycles", offset, CSR_PATIENCE);
    }

    int read_register(uint32_t offset, uint32_t* value) {
        Vcore& c = *core_;
        c.s_axil_araddr = offset;
        bool address_done = false;
        for (int i = 0; i < CSR_PATIENCE; ++i) {
            const uint64_t stalls = options_.stall ? random_.next() : ~uint64_t(0);
            c.s_axil_arvalid |= !address_done && !stalled(stalls, 0);
            c.s_axil_rready = !stalled(stalls, 1);
            settle();
            if (c.s_axil_rvalid && !address_done)
                return failed("AXI4-Lite: read data before the address");
            address_done |= c.s_axil_arvalid && c.s_axil_arready;
            const bool done = c.s_axil_rvalid && c.s_axil_rready;
            const unsigned response = c.s_axil_rresp;
            *value = c.s_axil_rdata;
            if (!finish_cycle()) return VIOLATION;
            if (address_done) c.s_axil_arvalid = 0;
            if (!done) continue;
            c.s_axil_rready = 0;
            if (!response) return RAN;
            return failed("AXI4-Lite: read of register 0x%x: response %u", offset, response);
        }
        return failed("AXI4-Lite: no answer from register 0x%x in %d cycles", offset, CSR_PATIENCE);
    }

    void inject(int64_t read_beat, int64_t write_beat) {
        error_read_ = read_beat < 0 ? ~uint64_t(0) : counters_.read_beats + read_beat;
        error_write_ = write_beat < 0 ? ~uint64_t(0) : counters_.write_beats + write_beat;
    }

    void counters(Counters* result) {
        counters_.cycles = cycle_;
        counters_.pending = reads_.size() + writes_.size() + responses_.size()
                          + core_->m_axi_rvalid + core_->m_axi_bvalid;
        *result = counters_;
    }

    const char* message() const { return message_; }

    void watch(Watch* points, uint64_t count) { watch_ = points; watch_count_ = count; }

    // Notes retirements from now on, as many as there is room for.
    void record(Retirement* places, uint64_t capacity) {
        record_ = places;
        record_capacity_ = capacity;
        recorded_ = 0;
    }

    uint64_t recorded() const { return recorded_; }

    int trace_start(const char* path) {
#ifdef TRACED
        trace_stop();
        trace_.reset(new VerilatedVcdC);
        core_->trace(trace_.get(), 99);
        trace_->open(path);
        return 1;
#else
        (void)path;
        return 0;
#endif
    }

    void trace_stop() {
#ifdef TRACED
        if (trace_) { trace_->close(); trace_.reset(); }
#endif
    }

  private:
    void evaluate() {
#ifdef WITHOUT_LOCKS
        if (begun_ && Vcore___024root___eval) {
            Vcore___024root___eval(core_->rootp);
            return;
        }
#endif
        core_->eval();  // The first time, it also sets the model up.
        begun_ = true;
    }

    void settle() {
        core_->clk = 0;
        evaluate();
#ifdef TRACED
        if (trace_) trace_->dump(2 * cycle_);
#endif
    }

    void edge() {
        core_->clk = 1;
        evaluate();
#ifdef TRACED
        if (trace_) trace_->dump(2 * cycle_ + 1);
#endif
        ++cycle_;
    }

    // Takes what is transferred in this cycle, passes the clock edge, and drives the next cycle.
    bool finish_cycle() {
        if (!take()) return false;
        observe();
        edge();
        drive();
        return true;
    }

    bool take() {
        Vcore& c = *core_;
        if (c.m_axi_arvalid | read_held_) {
            const Address now{c.m_axi_araddr, c.m_axi_arid,    c.m_axi_arlen,
                              c.m_axi_arsize, c.m_axi_arburst, c.m_axi_arlock};
            if (read_held_ && !held("AR", c.m_axi_arvalid, now == read_before_)) return false;
            read_held_ = !c.m_axi_arready;
            read_before_ = now;
            if (!read_held_) {
                if (!legal("AR", now)) return false;
                const uint64_t ready_at = cycle_ + options_.latency;
                reads_.push_back({now.address, ready_at, now.id, now.length + 1, false});
            }
        }
        if (c.m_axi_awvalid | write_held_) {
            const Address now{c.m_axi_awaddr, c.m_axi_awid,    c.m_axi_awlen,
                              c.m_axi_awsize, c.m_axi_awburst, c.m_axi_awlock};
            if (write_held_ && !held("AW", c.m_axi_awvalid, now == write_before_)) return false;
            write_held_ = !c.m_axi_awready;
            write_before_ = now;
            if (!write_held_) {
                if (!legal("AW", now)) return false;
                writes_.push_back({now.address, 0, now.id, now.length + 1, false});
            }
        }
        wants_write_ = c.m_axi_wvalid;
        if (c.m_axi_wvalid | beat_held_) {
            Beat now;
            now.strobe = c.m_axi_wstrb;
            now.last = c.m_axi_wlast;
            memcpy(now.data, &c.m_axi_wdata, beat_);
            bool same = now.strobe == beat_before_.strobe && now.last == beat_before_.last
                     && !memcmp(now.data, beat_before_.data, beat_);
            if (beat_held_ && !held("W", c.m_axi_wvalid, same)) return false;
            beat_held_ = !c.m_axi_wready;
            if (beat_held_) beat_before_ = now;
            else if (!write(now)) return false;
        }
        // The inputs themselves must not change before the clock edge.
        take_read_ = c.m_axi_rvalid && c.m_axi_rready;
        take_response_ = c.m_axi_bvalid && c.m_axi_bready;
        return true;
    }

    bool write(const Beat& beat) {
        Burst& burst = writes_.front();
        if (beat.last != (burst.beats == 1))
            return fail("W: WLAST is %u with %u beats to go, at 0x%" PRIx64,
                        beat.last, burst.beats, burst.address);
        uint8_t* target = memory_ + burst.address;
        for (unsigned i = 0; i < beat_; ++i)
            if (beat.strobe >> i & 1) target[i] = beat.data[i];
        burst.error |= counters_.write_beats++ == error_write_;
        burst.address += beat_;
        tokens_ -= tokens_per_beat_;
        if (--burst.beats == 0) {
            responses_.push_back({0, cycle_ + options_.latency, burst.id, 0, burst.error});
            writes_.pop_front();
        }
        return true;
    }

    // The inputs of the cycle that begins.
    void drive() {
        Vcore& c = *core_;
        const bool random = options_.stall || options_.interleave;
        const uint64_t stalls = random ? random_.next() : ~uint64_t(0);
        tokens_ += options_.bandwidth;
        if (tokens_ > bucket_) tokens_ = bucket_;

        if (take_read_) c.m_axi_rvalid = 0;
        if (take_response_) c.m_axi_bvalid = 0;

        bool can_read = !c.m_axi_rvalid && !reads_.empty() && !stalled(stalls, 0);
        size_t chosen = 0;
        if (can_read && options_.interleave) chosen = choose(stalls >> 54);
        can_read = can_read && chosen < reads_.size() && reads_[chosen].ready_at <= cycle_;
        bool can_write = !writes_.empty() && !stalled(stalls, 1);
        if (can_read && can_write && wants_write_ && tokens_ < 2 * tokens_per_beat_) {
            // There is enough for one: turn about.
            if (write_turn_) can_read = false; else can_write = false;
            write_turn_ = !write_turn_;
        }
        if (can_read && tokens_ >= tokens_per_beat_) read(chosen);
        c.m_axi_wready = can_write && tokens_ >= tokens_per_beat_;

        const bool responds = !responses_.empty() && responses_.front().ready_at <= cycle_;
        if (!c.m_axi_bvalid && responds && !stalled(stalls, 2)) {
            c.m_axi_bvalid = 1;
            c.m_axi_bid = responses_.front().id;
            c.m_axi_bresp = responses_.front().error ? 2 : 0;
            responses_.pop_front();
        }
        c.m_axi_arready = reads_.size() < options_.outstanding && !stalled(stalls, 3);
        c.m_axi_awready = writes_.size() < options_.outstanding && !stalled(stalls, 4);
    }

    void read(size_t chosen) {
        Vcore& c = *core_;
        Burst& burst = reads_[chosen];
        tokens_ -= tokens_per_beat_;
        memcpy(&c.m_axi_rdata, memory_ + burst.address, beat_);
        c.m_axi_rvalid = 1;
        c.m_axi_rid = burst.id;
        c.m_axi_rresp = counters_.read_beats++ == error_read_ ? 2 : 0;
        c.m_axi_rlast = burst.beats == 1;
        burst.address += beat_;
        if (--burst.beats == 0) reads_.erase(reads_.begin() + chosen);
    }

    // The oldest burst of a random ID that has one.
    size_t choose(uint64_t random) {
        size_t oldest[IDS];
        int count = 0;
        uint32_t seen = 0;
        for (size_t i = 0; i < reads_.size(); ++i) {
            if (seen >> reads_[i].id & 1 || reads_[i].ready_at > cycle_) continue;
            seen |= 1u << reads_[i].id;
            oldest[count++] = i;
        }
        return count ? oldest[random % count] : reads_.size();
    }

    bool stalled(uint64_t random, int field) const {
        return (random >> (field * STALL_BITS) & ((1 << STALL_BITS) - 1)) < options_.stall;
    }

    bool legal(const char* channel, const Address& a) {
        const uint64_t bytes = uint64_t(a.length + 1) * beat_;
        const uint64_t memory = options_.memory_bytes;
        if (a.burst != 1 || (1u << a.size) != beat_ || a.lock)
            return fail("%s: burst type %u, size %u, lock %u: not whole incrementing beats",
                        channel, a.burst, a.size, a.lock);
        if (a.address % beat_)
            return fail("%s: address 0x%" PRIx64 " is no multiple of %u",
                        channel, a.address, beat_);
        if (a.address % 4096 + bytes > 4096)
            return fail("%s: %" PRIu64 " bytes from 0x%" PRIx64 " cross a 4 KiB boundary",
                        channel, bytes, a.address);
        if (a.address >= memory || bytes > memory - a.address)
            return fail("%s: %" PRIu64 " bytes from 0x%" PRIx64 " are outside of the memory",
                        channel, bytes, a.address);
        return true;
    }

    bool held(const char* channel, bool valid, bool same) {
        if (!valid) return fail("%s: VALID was withdrawn before READY", channel);
        if (!same) return fail("%s: changed while it waited for READY", channel);
        return true;
    }

    template <class... Values> bool fail(const char* format, Values... values) {
        int used = snprintf(message_, sizeof(message_), "cycle %" PRIu64 ": ", cycle_);
        snprintf(message_ + used, sizeof(message_) - used, format, values...);
        return false;
    }

    template <class... Values> int failed(const char* format, Values... values) {
        fail(format, values...);
        return VIOLATION;
    }

#ifdef PROBED
    template <class Port> void mirror(const Port& data, uint64_t address, uint64_t mask) {
        const auto* bytes = reinterpret_cast<const uint8_t*>(&data);
        uint8_t* target = &mirror_[address * sizeof(Port)];
        for (unsigned i = 0; i < sizeof(Port); ++i)
            if (mask >> i & 1) target[i] = bytes[i];
    }

    void observe() {
        Vcore& c = *core_;
        uint16_t retired[ENGINES];
        memcpy(retired, &c.probe_retired, sizeof(retired));
        if (memcmp(retired, retired_, sizeof(retired))) {
            for (uint64_t i = 0; i < watch_count_; ++i) {
                Watch& w = watch_[i];
                const bool now = retired_[w.engine] < w.count && w.count <= retired[w.engine];
                if (now && !w.captured) capture(w);
            }
            for (uint32_t e = 0; e < ENGINES; ++e)
                if (retired[e] > retired_[e] && recorded_ < record_capacity_)
                    record_[recorded_++] = {cycle_, e, retired[e]};
            memcpy(retired_, retired, sizeof(retired));
        }
        if (c.probe_write0_valid)
            mirror(c.probe_write0_data, c.probe_write0_address, c.probe_write0_mask);
        if (c.probe_write1_valid)
            mirror(c.probe_write1_data, c.probe_write1_address, c.probe_write1_mask);
    }

    void capture(Watch& w) {
        for (uint64_t row = 0; row < w.rows; ++row)
            memcpy(w.target + row * w.row_bytes, &mirror_[w.address + row * w.row], w.row_bytes);
        w.captured = 1;
    }
#else
    void observe() {}
#endif

    uint8_t* memory_;
    Options options_;
    Random random_;
    std::unique_ptr<VerilatedContext> context_;
    bool begun_ = false;
    std::unique_ptr<Vcore> core_;
    unsigned beat_;
    uint64_t tokens_per_beat_, bucket_, tokens_ = 0;
    uint64_t cycle_ = 0;
    std::deque<Burst> reads_, writes_, responses_;
    Address read_before_{}, write_before_{};
    Beat beat_before_{};
    bool read_held_ = false, write_held_ = false, beat_held_ = false;
    bool take_read_ = false, take_response_ = false, wants_write_ = false, write_turn_ = false;
    uint64_t error_read_ = ~uint64_t(0), error_write_ = ~uint64_t(0);
    Counters counters_{};
    Watch* watch_ = nullptr;
    uint64_t watch_count_ = 0;
    Retirement* record_ = nullptr;
    uint64_t record_capacity_ = 0, recorded_ = 0;
    uint16_t retired_[ENGINES] = {};
    std::vector<uint8_t> mirror_;
#ifdef TRACED
    std::unique_ptr<VerilatedVcdC> trace_;
#endif
    char message_[512] = "";
};

}  // namespace

extern "C" {

void* harness_new(uint8_t* memory, const Options* options) { return new Harness(memory, *options); }

void harness_delete(Harness* harness) { delete harness; }

void harness_reset(Harness* harness, uint32_t cycles) { harness->reset(cycles); }

int harness_run(Harness* harness, uint64_t cycles, int until_interrupt) {
    return harness->run(cycles, until_interrupt);
}

int harness_write_register(Harness* harness, uint32_t offset, uint32_t value) {
    return harness->write_register(offset, value);
}

int harness_read_register(Harness* harness, uint32_t offset, uint32_t* value) {
    return harness->read_register(offset, value);
}

void harness_inject(Harness* harness, int64_t read_beat, int64_t write_beat) {
    harness->inject(read_beat, write_beat);
}

void harness_counters(Harness* harness, Counters* counters) { harness->counters(counters); }

const char* harness_message(Harness* harness) { return harness->message(); }

void harness_watch(Harness* harness, Watch* points, uint64_t count) {
    harness->watch(points, count);
}

void harness_record(Harness* harness, Retirement* places, uint64_t capacity) {
    harness->record(places, capacity);
}

uint64_t harness_recorded(Harness* harness) { return harness->recorded(); }

int harness_trace_start(Harness* harness, const char* path) { return harness->trace_start(path); }

void harness_trace_stop(Harness* harness) { harness->trace_stop(); }

}

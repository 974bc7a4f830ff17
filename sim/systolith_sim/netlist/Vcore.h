// A mapped core, simulated cell by cell behind the interface of a Verilator model.
//
// `tables.inc` has the netlist: ports, LUTs in the order of their dependence, registers and hard
// blocks, all connected by the numbers of their nets. Net 0 is 0 and net 1 is 1.
//
// Sources: Lattice FPGA-TN-02205, "ECP5 and ECP5-5G sysDSP Usage Guide", and FPGA-TN-02204, "ECP5
// and ECP5-5G Memory Usage Guide", as far as the core uses the blocks: MULT18X18D with registered
// operands and product; DP16KD written by port A, read by port B and registered.

#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "verilated.h"

// A function of up to four nets, or (`ram` not 0) one bit of the LUT RAM `ram - 1` at the address
// that they are.
struct Lut { uint32_t in[4]; uint32_t out; uint16_t init; uint16_t bit; uint32_t ram; };

// A register: reset goes before clock enable.
struct FlipFlop { uint32_t d, enable, reset, q; uint8_t inverted_enable, value; };

struct LutRam { uint32_t data[4], address[4], enable; uint8_t inverted_enable; };

struct Multiplier {
    uint32_t a[18], b[18], product[36];
    uint32_t signed_a, signed_b, reset, a_enable, b_enable, product_enable;
};

struct BlockRam {
    uint32_t address_a[14], address_b[14], in[36], out[36];
    uint32_t clock_enable_a, write, clock_enable_b, output_enable;
    uint32_t width;
    const char* contents;   // 64 rows of 80 hexadecimal digits, or nothing
};

#include "tables.inc"

class Vcore : public Ports {
  public:
    Vcore(VerilatedContext*, const char*) : nets_(NETS), next_(FLIP_FLOPS) {
        nets_[1] = 1;
        for (uint32_t i = 0; i < FLIP_FLOPS; ++i) nets_[flip_flops[i].q] = flip_flops[i].value;
        lut_rams_.resize(LUT_RAMS * 16);
        products_.resize(MULTIPLIERS);
        for (uint32_t i = 0; i < BLOCK_RAMS; ++i) rams_.emplace_back(block_rams[i]);
    }

    void final() {}

    // As Verilator has it: combinational values while the clock is low, registers when it rises.
    void eval() {
        const bool rises = clk && !clock_;
        clock_ = clk;
        if (rises) {
            clock();
        } else if (!clk) {
            drive(nets_.data());
            settle();
            observe(nets_.data());
        }
    }

  private:
    struct Product { int64_t a = 0, b = 0; uint64_t result = 0; };

    struct Words {
        explicit Words(const BlockRam& ram) : bits(1 << 14), bytes(ram.width >= 9) {
            for (int place = 0; ram.contents[0] && place < 1 << 14; ++place) {
                // Rows of 18 bits, in which an address counts 16: a byte has eight or nine.
                const int byte = place >> 3, bit = place & 7;
                bits[place] = digit_bit(ram.contents, 20 * (byte / 2) + 9 * (byte % 2) + bit);
                if (bytes && bit == 7)
                    ninth.push_back(digit_bit(ram.contents, 20 * (byte / 2) + 9 * (byte % 2) + 8));
            }
            ninth.resize(1 << 11);
        }

        static uint8_t digit_bit(const char* digits, int bit) {
            const char digit = digits[bit / 4];
            return (digit <= '9' ? digit - '0' : digit - 'a' + 10) >> (bit % 4) & 1;
        }

        std::vector<uint8_t> bits, ninth;   // by the address of a bit, and of a byte
        bool bytes;
        uint64_t read = 0, output = 0;
    };

    void settle() {
        uint8_t* nets = nets_.data();
        for (const Lut& lut : luts) {
            const unsigned index = nets[lut.in[0]] | nets[lut.in[1]] << 1 | nets[lut.in[2]] << 2
                                 | nets[lut.in[3]] << 3;
            nets[lut.out] = lut.ram ? lut_rams_[16 * (lut.ram - 1) + index] >> lut.bit & 1
                                    : lut.init >> index & 1;
        }
    }

    void clock() {
        uint8_t* nets = nets_.data();
        for (uint32_t i = 0; i < FLIP_FLOPS; ++i) {
            const FlipFlop& f = flip_flops[i];
            next_[i] = nets[f.reset] ? f.value
                     : nets[f.enable] ^ f.inverted_enable ? nets[f.d] : nets[f.q];
        }
        for (uint32_t i = 0; i < LUT_RAMS; ++i) {
            const LutRam& ram = lut_ram_table[i];
            if (nets[ram.enable] ^ ram.inverted_enable)
                lut_rams_[16 * i + gather(ram.address, 4)] = gather(ram.data, 4);
        }
        // Blocks have all read their inputs before any of them, or a register, drives its outputs.
        for (uint32_t i = 0; i < MULTIPLIERS; ++i) multiply(multipliers[i], products_[i]);
        for (uint32_t i = 0; i < BLOCK_RAMS; ++i) access(block_rams[i], rams_[i]);
        for (uint32_t i = 0; i < FLIP_FLOPS; ++i) nets[flip_flops[i].q] = next_[i];
        for (uint32_t i = 0; i < MULTIPLIERS; ++i)
            scatter(multipliers[i].product, 36, products_[i].result);
        for (uint32_t i = 0; i < BLOCK_RAMS; ++i) scatter(block_rams[i].out, 36, rams_[i].output);
    }

    uint64_t gather(const uint32_t* places, int count) const {
        uint64_t value = 0;
        for (int i = 0; i < count; ++i) value |= uint64_t(nets_[places[i]]) << i;
        return value;
    }

    // Outputs that lead nowhere are net 0.
    void scatter(const uint32_t* places, int count, uint64_t value) {
        for (int i = 0; i < count; ++i)
            if (places[i]) nets_[places[i]] = value >> i & 1;
    }

    int64_t operand(const uint32_t* places, uint32_t is_signed) const {
        const int64_t value = gather(places, 18);
        return value - (nets_[is_signed] && value >> 17 ? int64_t(1) << 18 : 0);
    }

    void multiply(const Multiplier& block, Product& state) {
        const bool reset = nets_[block.reset];
        const int64_t product = state.a * state.b;
        if (nets_[block.product_enable] || reset) state.result = reset ? 0 : product;
        if (nets_[block.a_enable] || reset)
            state.a = reset ? 0 : operand(block.a, block.signed_a);
        if (nets_[block.b_enable] || reset)
            state.b = reset ? 0 : operand(block.b, block.signed_b);
    }

    // An address counts bits, eight to a byte; wide words leave its lowest bits free, which are the
    // write enables of their bytes. What is read while it is written is undefined: it comes
    // inverted here, so that nobody can rely on it.
    void access(const BlockRam& block, Words& words) {
        const int width = block.width;
        const int bytes = width >= 9 ? width / 9 : 0;
        const int span = bytes ? 8 * bytes : width;
        const int target = gather(block.address_a, 14) & -span;
        const int source = gather(block.address_b, 14) & -span;
        const unsigned enables = bytes > 1 ? gather(block.address_a, bytes) : 1;
        const bool writes = nets_[block.clock_enable_a] && nets_[block.write] && enables;

        if (nets_[block.output_enable]) words.output = words.read;
        if (nets_[block.clock_enable_b]) {
            uint64_t value = 0;
            for (int i = 0; i < width; ++i) value |= uint64_t(*bit(words, source, i)) << i;
            if (writes && source == target) value ^= (uint64_t(1) << width) - 1;
            words.read = value;
        }
        if (writes) {
            const uint64_t value = gather(block.in, 36);
            for (int i = 0; i < width; ++i)
                if (bytes < 2 || enables >> (i / 9) & 1) *bit(words, target, i) = value >> i & 1;
        }
    }

    static uint8_t* bit(Words& words, int address, int index) {
        if (!words.bytes) return &words.bits[address + index];
        const int byte = address / 8 + index / 9;
        return index % 9 == 8 ? &words.ninth[byte] : &words.bits[8 * byte + index % 9];
    }

    std::vector<uint8_t> nets_, next_, lut_rams_;
    std::vector<Product> products_;
    std::vector<Words> rams_;
    uint8_t clock_ = 0;
};

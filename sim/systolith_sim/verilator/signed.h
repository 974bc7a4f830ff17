// Sign extension and signed products for the code that Verilator generates.
//
// Verilator's own take a chain of and, negate and or for each extension, and extend both operands of a
// product once more. The array of a 16x8 core has 128 products and as many signed sums, so that is 4 %
// of a simulation. To be included before generated code, instead of Verilator's header.

#pragma once

#include "verilated.h"

// Shifts of negative numbers are arithmetic since C++20. Bits above `lbits` may be anything here; those
// above the width of the result are cut off by the caller, as with Verilator's own.
#define VL_EXTENDS_II(obits, lbits, lhs) \
    (static_cast<IData>(static_cast<int32_t>(static_cast<IData>(lhs) << (32 - (lbits))) >> (32 - (lbits))))

// The low bits of a product do not depend on what is above the operands' own, and the caller cuts the
// rest off.
#define VL_MULS_III(lbits, lhs, rhs) (static_cast<IData>(lhs) * static_cast<IData>(rhs))

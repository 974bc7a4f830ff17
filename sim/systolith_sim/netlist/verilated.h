// What `harness.cpp` wants of Verilator's runtime: nothing.

#pragma once

struct VerilatedContext {};

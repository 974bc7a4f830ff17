"""FPGA boards: the core with a memory controller, a host link, clocks and pins around it."""

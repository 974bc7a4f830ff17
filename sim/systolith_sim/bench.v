// A test bench for {{core}}: it loads a small program, runs it, and compares every byte
// of the result with what the instruction simulator of Systolith {{version}} made of it.
//
// Plain Verilog, for any simulator that knows `$fatal`. It prints PASS and ends with $finish, or
// prints FAIL and ends with $fatal, which makes simulators return an error. This file is yours.
//
// Replace `memory` by your interconnect, and keep the rules that are checked in it.

`timescale 1ns / 1ps

module {{core}}_bench;
  localparam DATA_BITS = {{data_bits}};
  localparam ADDRESS_BITS = {{address_bits}};
  localparam BYTES = DATA_BITS / 8;
  localparam WORDS = {{words}};

  // Every channel holds still in some cycles, unless this is 0.
  parameter STALLS = 1;

  // Cycles after which a program counts as hung.
  parameter TIMEOUT = {{timeout}};

  reg clk = 1'b0;
  reg rst = 1'b1;
  always #5 clk = !clk;

  wire irq;

  // Registers.
  reg [9:0] s_axil_awaddr = 10'd0;
  reg s_axil_awvalid = 1'b0;
  wire s_axil_awready;
  reg [31:0] s_axil_wdata = 32'd0;
  reg s_axil_wvalid = 1'b0;
  wire s_axil_wready;
  wire [1:0] s_axil_bresp;
  wire s_axil_bvalid;
  reg s_axil_bready = 1'b0;
  reg [9:0] s_axil_araddr = 10'd0;
  reg s_axil_arvalid = 1'b0;
  wire s_axil_arready;
  wire [31:0] s_axil_rdata;
  wire [1:0] s_axil_rresp;
  wire s_axil_rvalid;
  reg s_axil_rready = 1'b0;

  // Memory.
  wire [1:0] m_axi_awid, m_axi_arid;
  wire [ADDRESS_BITS-1:0] m_axi_awaddr, m_axi_araddr;
  wire [7:0] m_axi_awlen, m_axi_arlen;
  wire [2:0] m_axi_awsize, m_axi_arsize;
  wire [1:0] m_axi_awburst, m_axi_arburst;
  wire m_axi_awvalid, m_axi_arvalid;
  wire m_axi_awready, m_axi_arready;
  wire [DATA_BITS-1:0] m_axi_wdata;
  wire [BYTES-1:0] m_axi_wstrb;
  wire m_axi_wlast, m_axi_wvalid;
  wire m_axi_wready;
  reg [1:0] m_axi_bid = 2'd0;
  reg m_axi_bvalid = 1'b0;
  wire m_axi_bready;
  reg [1:0] m_axi_rid = 2'd0;
  reg [DATA_BITS-1:0] m_axi_rdata = {DATA_BITS{1'b0}};
  reg m_axi_rlast = 1'b0;
  reg m_axi_rvalid = 1'b0;
  wire m_axi_rready;

  {{core}} core (
      .clk(clk),
      .rst(rst),
      .irq(irq),
      .s_axil_awaddr(s_axil_awaddr),
      .s_axil_awprot(3'd0),
      .s_axil_awvalid(s_axil_awvalid),
      .s_axil_awready(s_axil_awready),
      .s_axil_wdata(s_axil_wdata),
      .s_axil_wstrb(4'hf),
      .s_axil_wvalid(s_axil_wvalid),
      .s_axil_wready(s_axil_wready),
      .s_axil_bresp(s_axil_bresp),
      .s_axil_bvalid(s_axil_bvalid),
      .s_axil_bready(s_axil_bready),
      .s_axil_araddr(s_axil_araddr),
      .s_axil_arprot(3'd0),
      .s_axil_arvalid(s_axil_arvalid),
      .s_axil_arready(s_axil_arready),
      .s_axil_rdata(s_axil_rdata),
      .s_axil_rresp(s_axil_rresp),
      .s_axil_rvalid(s_axil_rvalid),
      .s_axil_rready(s_axil_rready),
      .m_axi_awid(m_axi_awid),
      .m_axi_awaddr(m_axi_awaddr),
      .m_axi_awlen(m_axi_awlen),
      .m_axi_awsize(m_axi_awsize),
      .m_axi_awburst(m_axi_awburst),
      .m_axi_awlock(),
      .m_axi_awcache(),
      .m_axi_awprot(),
      .m_axi_awqos(),
      .m_axi_awvalid(m_axi_awvalid),
      .m_axi_awready(m_axi_awready),
      .m_axi_wdata(m_axi_wdata),
      .m_axi_wstrb(m_axi_wstrb),
      .m_axi_wlast(m_axi_wlast),
      .m_axi_wvalid(m_axi_wvalid),
      .m_axi_wready(m_axi_wready),
      .m_axi_bid(m_axi_bid),
      .m_axi_bresp(2'd0),
      .m_axi_bvalid(m_axi_bvalid),
      .m_axi_bready(m_axi_bready),
      .m_axi_arid(m_axi_arid),
      .m_axi_araddr(m_axi_araddr),
      .m_axi_arlen(m_axi_arlen),
      .m_axi_arsize(m_axi_arsize),
      .m_axi_arburst(m_axi_arburst),
      .m_axi_arlock(),
      .m_axi_arcache(),
      .m_axi_arprot(),
      .m_axi_arqos(),
      .m_axi_arvalid(m_axi_arvalid),
      .m_axi_arready(m_axi_arready),
      .m_axi_rid(m_axi_rid),
      .m_axi_rdata(m_axi_rdata),
      .m_axi_rresp(2'd0),
      .m_axi_rlast(m_axi_rlast),
      .m_axi_rvalid(m_axi_rvalid),
      .m_axi_rready(m_axi_rready)
  );

  // Random bits, a fixed sequence: x^32 + x^22 + x^2 + x + 1.
  reg [31:0] random = 32'h5953544c;
  always @(posedge clk) random <= {random[30:0], random[31] ^ random[21] ^ random[1] ^ random[0]};
  wire [3:0] hold = STALLS != 0 ? {random[3], random[9], random[17], random[26]} : 4'd0;

  // The memory: one read and one write at a time.
  reg [DATA_BITS-1:0] memory[0:WORDS-1];

  task fail(input [8*48-1:0] what);
    begin
      $display("FAIL: %0s", what);
      $fatal(1, "the test bench found an error");
    end
  endtask

  // What AXI4 asks of a burst, and what this memory does besides.
  task check_burst(input [ADDRESS_BITS-1:0] address, input [7:0] len, input [2:0] size,
                   input [1:0] burst);
    begin
      if (burst != 2'd1) fail("a burst is not INCR");
      if (BYTES != 1 << size) fail("a beat is not as wide as the bus");
      if (address % BYTES != 0) fail("a burst is not aligned to its beats");
      if (address % 4096 + (len + 1) * BYTES > 4096) fail("a burst crosses 4 KiB");
      if (address / BYTES + len >= WORDS) fail("an address beyond the memory");
    end
  endtask

  reg reading = 1'b0;
  reg [ADDRESS_BITS-1:0] read_word = 0;
  reg [7:0] read_left = 8'd0;
  assign m_axi_arready = !reading && !hold[0];
  always @(posedge clk) begin
    if (m_axi_arvalid && m_axi_arready) begin
      check_burst(m_axi_araddr, m_axi_arlen, m_axi_arsize, m_axi_arburst);
      reading <= 1'b1;
      read_word <= m_axi_araddr / BYTES;
      read_left <= m_axi_arlen;
      m_axi_rid <= m_axi_arid;
    end
    if (m_axi_rvalid && m_axi_rready) begin
      m_axi_rvalid <= 1'b0;
      if (m_axi_rlast) reading <= 1'b0;
    end
    if (reading && !hold[1] && (!m_axi_rvalid || m_axi_rready && !m_axi_rlast)) begin
      m_axi_rvalid <= 1'b1;
      m_axi_rdata <= memory[read_word];
      m_axi_rlast <= read_left == 8'd0;
      read_word <= read_word + 1;
      read_left <= read_left - 8'd1;
    end
  end

  reg writing = 1'b0;
  reg [ADDRESS_BITS-1:0] write_word = 0;
  integer lane;
  assign m_axi_awready = !writing && !m_axi_bvalid && !hold[2];
  assign m_axi_wready = writing && !hold[3];
  always @(posedge clk) begin
    if (m_axi_bvalid && m_axi_bready) m_axi_bvalid <= 1'b0;
    if (m_axi_awvalid && m_axi_awready) begin
      check_burst(m_axi_awaddr, m_axi_awlen, m_axi_awsize, m_axi_awburst);
      writing <= 1'b1;
      write_word <= m_axi_awaddr / BYTES;
      m_axi_bid <= m_axi_awid;
    end
    if (m_axi_wvalid && m_axi_wready) begin
      for (lane = 0; lane < BYTES; lane = lane + 1)
        if (m_axi_wstrb[lane]) memory[write_word][8*lane+:8] <= m_axi_wdata[8*lane+:8];
      write_word <= write_word + 1;
      if (m_axi_wlast) begin
        writing <= 1'b0;
        m_axi_bvalid <= 1'b1;
      end
    end
  end

  // The host: one access at a time. Address and data of a write may be taken in any order.
  task write_register(input [9:0] address, input [31:0] value);
    begin
      s_axil_awaddr <= address;
      s_axil_wdata <= value;
      s_axil_awvalid <= 1'b1;
      s_axil_wvalid <= 1'b1;
      s_axil_bready <= 1'b1;
      @(posedge clk);
      while (s_axil_awvalid || s_axil_wvalid) begin
        if (s_axil_awready) s_axil_awvalid <= 1'b0;
        if (s_axil_wready) s_axil_wvalid <= 1'b0;
        @(posedge clk);
      end
      while (!s_axil_bvalid) @(posedge clk);
      if (s_axil_bresp != 2'd0) fail("a register answered with an error");
      s_axil_bready <= 1'b0;
      @(posedge clk);
    end
  endtask

  reg [31:0] value;
  task read_register(input [9:0] address);
    begin
      s_axil_araddr <= address;
      s_axil_arvalid <= 1'b1;
      s_axil_rready <= 1'b1;
      @(posedge clk);
      while (!s_axil_arready) @(posedge clk);
      s_axil_arvalid <= 1'b0;
      while (!s_axil_rvalid) @(posedge clk);
      value = s_axil_rdata;
      s_axil_rready <= 1'b0;
      @(posedge clk);
    end
  endtask

  task fill;
    begin
{{fill}}
    end
  endtask

  task set_registers;
    begin
{{registers}}
    end
  endtask

  task compare(input integer address, input [7:0] expected);
    reg [7:0] found;
    begin
      found = memory[address/BYTES] >> 8 * (address % BYTES);
      if (found !== expected) begin
        $display("FAIL: byte %h is %h instead of %h", address, found, expected);
        wrong = wrong + 1;
      end
    end
  endtask

  integer wrong = 0;
  integer index;
  initial begin
    for (index = 0; index < WORDS; index = index + 1) memory[index] = {BYTES{8'ha5}};
    fill;
    repeat (4) @(posedge clk);
    rst <= 1'b0;
    @(posedge clk);
    read_register({{id}});
    if (value !== {{magic}}) fail("there is no Systolith");
    set_registers;
    while (!irq) @(posedge clk);
    read_register({{status}});
    if (value !== {{done}}) fail("the core stopped the program");
    read_register({{cycles}});
    $display("the program took %0d cycles", value);
{{compare}}
    if (wrong != 0) fail("the result is wrong");
    write_register({{control}}, {{acknowledge}});
    if (irq) fail("the interrupt has not been acknowledged");
    $display("PASS: {{count}} bytes as expected");
    $finish;
  end

  initial begin
    repeat (TIMEOUT) @(posedge clk);
    fail("the program did not end");
  end
endmodule

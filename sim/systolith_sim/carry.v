// Adders and comparators as ECP5's carry chains, for Yosys's `techmap`; see carry.py for why.
//
// A cell has two halves. Half 0 of a chain makes its first carry from its own inputs, whatever
// arrives at CIN: its LUT4 is 0, so the carry is that of its LUT2. Half h behind it adds one bit.

(* techmap_celltype = "$alu" *)
module systolith_alu (A, B, CI, BI, X, Y, CO);
  parameter A_SIGNED = 0;
  parameter B_SIGNED = 0;
  parameter A_WIDTH = 1;
  parameter B_WIDTH = 1;
  parameter Y_WIDTH = 1;
  parameter _TECHMAP_CONSTMSK_CI_ = 0;
  parameter _TECHMAP_CONSTVAL_CI_ = 0;
  parameter _TECHMAP_CONSTMSK_BI_ = 0;
  parameter _TECHMAP_CONSTVAL_BI_ = 0;

  (* force_downto *) input [A_WIDTH-1:0] A;
  (* force_downto *) input [B_WIDTH-1:0] B;
  input CI, BI;
  (* force_downto *) output [Y_WIDTH-1:0] X, Y, CO;

  // What is narrower than Yosys's own carry chains is left to LUTs.
  wire _TECHMAP_FAIL_ = Y_WIDTH <= 4;

  // The lowest bit, if its carry is a function of A and B alone and that saves a cell: half 0 makes
  // the carry, a LUT the sum.
  localparam KNOWN = _TECHMAP_CONSTMSK_CI_ && _TECHMAP_CONSTMSK_BI_;
  localparam LOW = (KNOWN && Y_WIDTH % 2 == 0) ? 1 : 0;
  localparam BITS = Y_WIDTH - LOW;
  localparam CELLS = (BITS + 2) / 2;

  (* force_downto *) wire [Y_WIDTH-1:0] a, b;
  \$pos #(.A_SIGNED(A_SIGNED), .A_WIDTH(A_WIDTH), .Y_WIDTH(Y_WIDTH)) extend_a (.A(A), .Y(a));
  \$pos #(.A_SIGNED(B_SIGNED), .A_WIDTH(B_WIDTH), .Y_WIDTH(Y_WIDTH)) extend_b (.A(B), .Y(b));
  assign X = a ^ b ^ {Y_WIDTH{BI}};

  // Of A and B (bit 1): A, or the carry of a + b, a + b + 1, a + ~b, a + ~b + 1.
  localparam [3:0] FIRST =
    !LOW ? 4'b1010 :
    _TECHMAP_CONSTVAL_BI_ ? (_TECHMAP_CONSTVAL_CI_ ? 4'b1011 : 4'b0010)
                          : (_TECHMAP_CONSTVAL_CI_ ? 4'b1110 : 4'b1000);

  // A ^ B ^ C; it propagates the carry where that is 1, and generates A where it is 0.
  localparam [15:0] ADD = 16'h96AA;

  (* force_downto *) wire [2*CELLS-1:0] ha = {a[Y_WIDTH-1:LOW], LOW ? a[0] : CI};
  (* force_downto *) wire [2*CELLS-1:0] hb = {b[Y_WIDTH-1:LOW], LOW ? b[0] : 1'b1};
  (* force_downto *) wire [2*CELLS-1:0] sum;
  (* force_downto *) wire [CELLS-1:0] carry;

  genvar i;
  generate for (i = 0; i < CELLS; i = i + 1) begin:cells
    // Of an odd number of halves, one is left, whose sum is the last carry.
    localparam LEFT = 2 * i + 1 > BITS;
    CCU2C #(
      .INIT0(i == 0 ? {12'h000, FIRST} : ADD),
      .INIT1(LEFT ? 16'h0000 : ADD),
      .INJECT1_0("NO"),
      .INJECT1_1("NO")
    ) cell (
      .CIN(i == 0 ? 1'bx : carry[i == 0 ? 0 : i - 1]),
      .A0(ha[2*i]), .B0(hb[2*i]), .C0(i == 0 ? 1'b1 : BI), .D0(1'b1),
      .A1(ha[2*i+1]), .B1(hb[2*i+1]), .C1(BI), .D1(1'b1),
      .S0(sum[2*i]), .S1(sum[2*i+1]), .COUT(carry[i])
    );
  end endgenerate

  generate if (LOW) begin:sum_of_low
    assign Y = {sum[BITS:1], X[0] ^ CI};
  end else begin:sums
    assign Y = sum[BITS:1];
  end endgenerate

  generate for (i = 0; i < Y_WIDTH; i = i + 1) begin:carries
    localparam HALF = i + 1 - LOW;
    if (HALF % 2 == 1) assign CO[i] = carry[HALF/2];
    else if (i == Y_WIDTH - 1) assign CO[i] = sum[HALF+1];
    // Between the halves of a cell, a carry has no way out.
    else assign CO[i] = X[i] ? Y[i] ^ X[i] : a[i];
  end endgenerate
endmodule

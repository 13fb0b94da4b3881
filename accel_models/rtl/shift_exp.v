// Exponential of a word that is not negative, combinational: a table of 64 entries and a shift to the left.
//
// x, y     fixed point, POINT of BITS bits are the fraction; both are read unsigned, so large results wrap into the sign
//
// log2 e is taken as 1 + 1/2 - 1/16. Model: accel_models/shift_exp.py.
module shift_exp #(
    parameter BITS = 16,
    parameter POINT = 8
) (
    input [BITS-1:0] x,
    output [BITS-1:0] y
);
    localparam FRACTION_BITS = POINT + 4;
    localparam WIDE = BITS + 4;

    wire [WIDE-1:0] exponent = {x, 4'b0} + {x, 3'b0} - x; // sixteenths of x, so that 4 fraction bits more hold it exactly
    wire [WIDE-FRACTION_BITS-1:0] shift = exponent[WIDE-1:FRACTION_BITS];
    wire [FRACTION_BITS-1:0] fraction = exponent[FRACTION_BITS-1:0];
    wire [FRACTION_BITS:0] bracket;
    exp_table #(.POINT(POINT)) table_of_brackets (.address(fraction[FRACTION_BITS-1-:6]), .bracket(bracket));

    wire [FRACTION_BITS:0] power = fraction + bracket;
    wire [WIDE-1:0] shifted = {{WIDE - FRACTION_BITS - 1{1'b0}}, power} << shift;
    assign y = shifted[WIDE-1:4];
endmodule

// Exponential of a signed word, combinational: as shift_exp, and a negative exponent shifts to the right.
//
// x        signed, INPUT_BITS bits of which POINT are the fraction; INPUT_BITS at least POINT
// y        BITS bits of which POINT are the fraction; 0 where the result has no bit in the word
//
// Model: accel_models/two_way_exp.py.
module two_way_exp #(
    parameter INPUT_BITS = 13,
    parameter BITS = 16,
    parameter POINT = 8
) (
    input signed [INPUT_BITS-1:0] x,
    output [BITS-1:0] y
);
    localparam FRACTION_BITS = POINT + 4;
    localparam EXPONENT_BITS = INPUT_BITS + 5;
    localparam SHIFT_BITS = EXPONENT_BITS - FRACTION_BITS;
    localparam WIDE = BITS + 4;

    wire signed [EXPONENT_BITS-1:0] wide_x = x;
    wire signed [EXPONENT_BITS-1:0] exponent = (wide_x <<< 4) + (wide_x <<< 3) - wide_x; // sixteenths of x
    wire [SHIFT_BITS-1:0] shift = exponent[EXPONENT_BITS-1:FRACTION_BITS];
    wire [SHIFT_BITS-1:0] shift_right = -shift;
    wire negative = exponent[EXPONENT_BITS-1];
    wire [FRACTION_BITS-1:0] fraction = exponent[FRACTION_BITS-1:0];
    wire [FRACTION_BITS:0] bracket;
    exp_table #(.POINT(POINT)) table_of_brackets (.address(fraction[FRACTION_BITS-1-:6]), .bracket(bracket));

    wire [FRACTION_BITS:0] power = fraction + bracket;
    wire [WIDE-1:0] wide_power = {{WIDE - FRACTION_BITS - 1{1'b0}}, power};
    wire [WIDE-1:0] shifted = negative ? wide_power >> shift_right : wide_power << shift;
    wire too_large = !negative && shift >= BITS - POINT; // every bit of the power, whose value is below 2, leaves the word
    assign y = too_large ? {BITS{1'b0}} : shifted[WIDE-1:4];
endmodule

// Sum of two partial sums, or that sum as a share of a row's sum, combinational.
//
// divide   give the share: truncated toward 0, none of a row sum of 0
// valid    result is a share
//
// Words are signed fixed point, POINT of BITS bits are the fraction; sums and shares wrap. Model: accel_models/dynax_psum_softmax.py.
module psum_softmax #(
    parameter BITS = 16,
    parameter POINT = 8
) (
    input signed [BITS-1:0] first,
    input signed [BITS-1:0] second,
    input signed [BITS-1:0] row_sum,
    input divide,
    output [BITS-1:0] result,
    output valid
);
    localparam WIDE = BITS + POINT + 1; // a bit more, as the smallest word by -1 is larger than the largest

    wire signed [BITS-1:0] total = first + second;
    wire signed [WIDE-1:0] wide_total = total;
    wire signed [WIDE-1:0] dividend = wide_total <<< POINT;
    wire signed [WIDE-1:0] divisor = row_sum;
    wire signed [WIDE-1:0] quotient = dividend / divisor;

    assign valid = divide && |row_sum;
    assign result = valid ? quotient[BITS-1:0] : divide ? {BITS{1'b0}} : total;
endmodule

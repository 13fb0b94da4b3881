// Multiplier and accumulator of an output-stationary array: one signed product is added in each cycle.
//
// clear    the sum starts again with this cycle's product
// sum      of the products up to the last edge, modulo 2^SUM_BITS
module multiply_accumulate #(
    parameter OPERAND_BITS = 16,
    parameter SUM_BITS = 40
) (
    input clock,
    input clear,
    input signed [OPERAND_BITS-1:0] left,
    input signed [OPERAND_BITS-1:0] top,
    output reg signed [SUM_BITS-1:0] sum
);
    wire signed [2*OPERAND_BITS-1:0] product = left * top;
    wire signed [SUM_BITS-1:0] wide_product = product; // sign extended here, as a mixed sum would be unsigned

    always @(posedge clock) sum <= clear ? wide_product : sum + wide_product;
endmodule

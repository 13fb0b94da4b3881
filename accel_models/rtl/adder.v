// Sum of two words, combinational.
//
// sum      modulo 2^BITS
module adder #(
    parameter BITS = 16
) (
    input [BITS-1:0] left,
    input [BITS-1:0] right,
    output [BITS-1:0] sum
);
    assign sum = left + right;
endmodule

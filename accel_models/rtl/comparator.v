// Which of two signed words is larger, combinational: what a threshold and a sorting network are made of.
//
// larger   left is larger than right
module comparator #(
    parameter BITS = 16
) (
    input signed [BITS-1:0] left,
    input signed [BITS-1:0] right,
    output larger
);
    assign larger = left > right;
endmodule

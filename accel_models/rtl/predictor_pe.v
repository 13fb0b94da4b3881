// Low-bit prediction PE, 1:GROUP: holds one channel of a query, multiplies it by that channel of the keys that stream down.
//
// command      0 idle, 1 clear, 2 calc, 3 input
// input        every GROUP-th cycle takes operand and select (which channel of its group the operand is) from the left
// calc         takes a key's GROUP channels from above, and adds the product with those taken before to the sum from the left
// key_valid    goes right with the partial sum: it belongs to a key
//
// All words are signed; the sum is modulo 2^SUM_BITS. Model: accel_models/dynax_predictor_array.py.
module predictor_pe #(
    parameter GROUP = 2,
    parameter OPERAND_BITS = 4,
    parameter SUM_BITS = 13,
    parameter SELECT_BITS = $clog2(GROUP)
) (
    input clock,
    input [1:0] command,
    input [OPERAND_BITS-1:0] operand_left,
    input [SELECT_BITS-1:0] select_left,
    input [SUM_BITS-1:0] sum_left,
    input key_valid_left,
    input [GROUP*OPERAND_BITS-1:0] top,
    output reg [OPERAND_BITS-1:0] operand,
    output reg [SELECT_BITS-1:0] select,
    output reg [SUM_BITS-1:0] sum,
    output reg key_valid,
    output reg [GROUP*OPERAND_BITS-1:0] bottom
);
    localparam CLEAR = 2'd1, CALC = 2'd2, INPUT = 2'd3;

    reg [SELECT_BITS-1:0] inputs; // cycles of input, modulo GROUP
    wire signed [OPERAND_BITS-1:0] key;
    word_select #(.WORDS(GROUP), .BITS(OPERAND_BITS)) key_select (.words(bottom), .select(select), .word(key));

    wire signed [OPERAND_BITS-1:0] query = operand;
    wire signed [2*OPERAND_BITS-1:0] product = key * query;
    wire signed [SUM_BITS-1:0] wide_product = product;

`ifndef SYNTHESIS
    initial {operand, select, sum, key_valid, bottom, inputs} = 0; // silicon needs a clear first; the models start at 0
`endif

    always @(posedge clock)
        case (command)
            CLEAR: {operand, select, sum, key_valid, bottom, inputs} <= 0;
            CALC: begin
                sum <= sum_left + wide_product;
                key_valid <= key_valid_left;
                bottom <= top;
            end
            INPUT: begin
                {sum, key_valid, bottom} <= 0;
                inputs <= inputs + 1'b1;
                if (&inputs) {operand, select} <= {operand_left, select_left};
            end
            default: ;
        endcase
endmodule

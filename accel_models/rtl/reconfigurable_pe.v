// Execution PE: score of one query and one selected key, its exponential, then its part of the output, in place.
//
// accumulate      0 clear, 1 hold, 2 accumulate (query × key element), 3 move out (exponential × value element replaces the score)
// exponentiate    take the exponential of the accumulator
// select          which of the KEYS columns this PE works for; KEYS or more: zero
// offered         to the row's adder: the accumulator while it moves out, else the exponential
//
// Words are signed fixed point, POINT of BITS bits are the fraction; products are truncated and wrap. Model: accel_models/dynax_execute_array.py.
module reconfigurable_pe #(
    parameter KEYS = 32,
    parameter BITS = 16,
    parameter POINT = 8,
    parameter SELECT_BITS = $clog2(KEYS + 1)
) (
    input clock,
    input [1:0] accumulate,
    input exponentiate,
    input [SELECT_BITS-1:0] select,
    input [BITS-1:0] query,
    input [KEYS*BITS-1:0] columns,
    output [BITS-1:0] offered
);
    localparam CLEAR = 2'd0, ACCUMULATE = 2'd2, MOVE_OUT = 2'd3;

    reg [BITS-1:0] accumulator;
    reg [BITS-1:0] exponential;
    wire signed [BITS-1:0] column;
    word_select #(.WORDS(KEYS), .BITS(BITS), .SELECT_BITS(SELECT_BITS)) column_select (.words(columns), .select(select), .word(column));

    wire signed [BITS-1:0] factor = accumulate == MOVE_OUT ? exponential : query;
    wire signed [2*BITS-1:0] exact_product = factor * column;
    wire [BITS-1:0] product = exact_product[POINT+:BITS];
    wire [BITS-1:0] power;
    shift_exp #(.BITS(BITS), .POINT(POINT)) exp_unit (.x(accumulator), .y(power));

`ifndef SYNTHESIS
    initial {accumulator, exponential} = 0; // silicon needs a clear and an exponential first
`endif

    always @(posedge clock) begin
        case (accumulate)
            CLEAR: accumulator <= 0;
            ACCUMULATE: accumulator <= accumulator + product;
            MOVE_OUT: accumulator <= product;
            default: ;
        endcase
        if (exponentiate) exponential <= power;
    end

    assign offered = accumulate == MOVE_OUT ? accumulator : exponential;
endmodule

// Execution array: ROWS rows of PES PEs; keys, later values, enter on top and go down one row a cycle.
//
// Every row has its own accumulate and exponentiate, so that control may be broadcast or delayed by a cycle from row to row.
// Number 0 of a port's words is in the low bits. Model: accel_models/dynax_execute_array.py.
module execute_array #(
    parameter ROWS = 4,
    parameter PES = 4,
    parameter KEYS = 32,
    parameter BITS = 16,
    parameter POINT = 8,
    parameter SELECT_BITS = $clog2(KEYS + 1)
) (
    input clock,
    input clear,
    input [ROWS*2-1:0] accumulate,
    input [ROWS-1:0] exponentiate,
    input [ROWS*PES*SELECT_BITS-1:0] select,
    input [ROWS*BITS-1:0] query,
    input [KEYS*BITS-1:0] top,
    output [ROWS*BITS-1:0] adder
);
    wire [(ROWS+1)*KEYS*BITS-1:0] columns; // [r] enters row r
    assign columns[KEYS*BITS-1:0] = top;

    genvar number;
    generate
        for (number = 0; number < ROWS; number = number + 1) begin : rows
            execute_row #(.PES(PES), .KEYS(KEYS), .BITS(BITS), .POINT(POINT)) row (
                .clock(clock), .clear(clear), .accumulate(accumulate[number*2+:2]), .exponentiate(exponentiate[number]),
                .select(select[number*PES*SELECT_BITS+:PES*SELECT_BITS]), .query_left(query[number*BITS+:BITS]),
                .columns_above(columns[number*KEYS*BITS+:KEYS*BITS]), .columns(columns[(number+1)*KEYS*BITS+:KEYS*BITS]),
                .adder(adder[number*BITS+:BITS])
            );
        end
    endgenerate
endmodule

// Prediction array: ROWS queries of which 1 of every GROUP channels is kept stand still in rows of COLUMNS PEs, keys stream down.
//
// arrivals     [ROWS] a channel of each query, while pe_command is input
// top          [COLUMNS][GROUP] channels of keys; those of group c come c cycles later than those of group 0
// key_valid    group 0 of a key is on top
// pe_command   0 idle, 1 clear, 2 calc, 3 input;   end_command   0 idle, 1 clear, 2 calc
//
// Number 0 of a port's words is in the low bits. Model: accel_models/dynax_predictor_array.py.
module predictor_array #(
    parameter ROWS = 4,
    parameter COLUMNS = 4,
    parameter GROUP = 2,
    parameter OPERAND_BITS = 4,
    parameter PSUM_BITS = 13,
    parameter APPEND = 2,
    parameter BITS = 16,
    parameter POINT = 8,
    parameter SELECT_BITS = $clog2(GROUP)
) (
    input clock,
    input reset,
    input [ROWS*OPERAND_BITS-1:0] arrivals,
    input [COLUMNS*GROUP*OPERAND_BITS-1:0] top,
    input key_valid,
    input [1:0] pe_command,
    input [1:0] end_command,
    output [ROWS*BITS-1:0] exponential,
    output [ROWS*BITS-1:0] row_sum,
    output [ROWS*BITS-1:0] group_sum,
    output [ROWS*5-1:0] group_count,
    output [ROWS-1:0] group_full
);
    localparam CALC = 2'd2, IDLE = 2'd0, KEY_BITS = COLUMNS * GROUP * OPERAND_BITS;

    wire [ROWS*COLUMNS*OPERAND_BITS-1:0] operand; // of every PE, as all wires of PEs here
    wire [ROWS*COLUMNS*SELECT_BITS-1:0] select;
    wire [ROWS*COLUMNS*PSUM_BITS-1:0] psum;
    wire [ROWS*COLUMNS-1:0] psum_valid;
    wire [(ROWS+1)*KEY_BITS-1:0] keys; // [r] enters row r
    reg [ROWS-1:0] top_valid; // goes down with group 0 of the keys
    wire [ROWS-1:0] valid_above = {top_valid, key_valid};
    assign keys[KEY_BITS-1:0] = top;

`ifndef SYNTHESIS
    initial top_valid = 0; // silicon needs a clear first
`endif

    always @(posedge clock)
        if (pe_command == CALC) top_valid <= valid_above;
        else if (pe_command != IDLE) top_valid <= 0;

    genvar row, column;
    generate
        for (row = 0; row < ROWS; row = row + 1) begin : rows
            wire [OPERAND_BITS-1:0] kept;
            wire [SELECT_BITS-1:0] kept_channel;
            predictor_comparator #(.GROUP(GROUP), .OPERAND_BITS(OPERAND_BITS)) comparator (
                .clock(clock), .reset(reset), .arrival(arrivals[row*OPERAND_BITS+:OPERAND_BITS]),
                .operand(kept), .select(kept_channel)
            );
            for (column = 0; column < COLUMNS; column = column + 1) begin : columns
                localparam PE = row * COLUMNS + column;
                wire [OPERAND_BITS-1:0] operand_left;
                wire [SELECT_BITS-1:0] select_left;
                wire [PSUM_BITS-1:0] psum_left;
                wire valid_left;
                if (column == 0) begin : first
                    assign operand_left = kept;
                    assign select_left = kept_channel;
                    assign psum_left = 0;
                    assign valid_left = top_valid[row];
                end else begin : later
                    assign operand_left = operand[(PE-1)*OPERAND_BITS+:OPERAND_BITS];
                    assign select_left = select[(PE-1)*SELECT_BITS+:SELECT_BITS];
                    assign psum_left = psum[(PE-1)*PSUM_BITS+:PSUM_BITS];
                    assign valid_left = psum_valid[PE-1];
                end
                predictor_pe #(.GROUP(GROUP), .OPERAND_BITS(OPERAND_BITS), .SUM_BITS(PSUM_BITS)) pe (
                    .clock(clock), .command(pe_command),
                    .operand_left(operand_left), .select_left(select_left), .sum_left(psum_left), .key_valid_left(valid_left),
                    .top(keys[PE*GROUP*OPERAND_BITS+:GROUP*OPERAND_BITS]),
                    .operand(operand[PE*OPERAND_BITS+:OPERAND_BITS]),
                    .select(select[PE*SELECT_BITS+:SELECT_BITS]),
                    .sum(psum[PE*PSUM_BITS+:PSUM_BITS]),
                    .key_valid(psum_valid[PE]),
                    .bottom(keys[(PE+COLUMNS)*GROUP*OPERAND_BITS+:GROUP*OPERAND_BITS])
                );
            end
            localparam LAST = row * COLUMNS + COLUMNS - 1;
            predictor_row_end #(.PSUM_BITS(PSUM_BITS), .APPEND(APPEND), .BITS(BITS), .POINT(POINT)) row_end (
                .clock(clock), .command(end_command), .psum(psum[LAST*PSUM_BITS+:PSUM_BITS]), .key_valid(psum_valid[LAST]),
                .exponential(exponential[row*BITS+:BITS]), .row_sum(row_sum[row*BITS+:BITS]), .group_sum(group_sum[row*BITS+:BITS]),
                .group_count(group_count[row*5+:5]), .group_full(group_full[row])
            );
        end
    endgenerate
endmodule

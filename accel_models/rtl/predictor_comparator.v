// In front of a row of prediction PEs: the largest in magnitude of every GROUP channels that arrive, GROUP 2 or 4, combinational
// from the last arrival on.
//
// arrival      a channel a cycle, in descending order; the first of a group in a cycle that is a multiple of GROUP after reset
// operand      the largest; 0 until the last channel of a group arrives
// select       which channel of its group that is; of equal magnitudes the lowest of two, the highest of four
//
// Model: accel_models/dynax_predictor_array.py.
module predictor_comparator #(
    parameter GROUP = 2,
    parameter OPERAND_BITS = 4,
    parameter SELECT_BITS = $clog2(GROUP)
) (
    input clock,
    input reset,
    input [OPERAND_BITS-1:0] arrival,
    output [OPERAND_BITS-1:0] operand,
    output [SELECT_BITS-1:0] select
);
    reg [SELECT_BITS-1:0] phase;
    reg [(GROUP-1)*OPERAND_BITS-1:0] waiting; // the newest in the low bits

    function [OPERAND_BITS-1:0] magnitude(input [OPERAND_BITS-1:0] word);
        magnitude = word[OPERAND_BITS-1] ? -word : word;
    endfunction

    always @(posedge clock) begin
        phase <= reset ? {SELECT_BITS{1'b0}} : phase + 1'b1;
        waiting <= {waiting, arrival};
    end

    wire complete = &phase;
    wire [OPERAND_BITS-1:0] largest;
    wire [SELECT_BITS-1:0] channel;
    generate
        if (GROUP == 2) begin : of_two
            assign channel = magnitude(waiting) > magnitude(arrival);
            assign largest = channel ? waiting : arrival;
        end else begin : of_four
            wire [OPERAND_BITS-1:0] waiting_0, waiting_1, waiting_2;
            assign {waiting_2, waiting_1, waiting_0} = waiting;
            wire newer_is_0 = magnitude(arrival) > magnitude(waiting_0);
            wire older_is_2 = magnitude(waiting_1) > magnitude(waiting_2);
            wire [OPERAND_BITS-1:0] newer = newer_is_0 ? arrival : waiting_0;
            wire [OPERAND_BITS-1:0] older = older_is_2 ? waiting_1 : waiting_2;
            wire newer_wins = magnitude(newer) > magnitude(older);
            assign channel = newer_wins ? (newer_is_0 ? 2'd0 : 2'd1) : (older_is_2 ? 2'd2 : 2'd3);
            assign largest = newer_wins ? newer : older;
        end
    endgenerate
    assign operand = complete ? largest : {OPERAND_BITS{1'b0}};
    assign select = complete ? channel : {SELECT_BITS{1'b0}};
endmodule

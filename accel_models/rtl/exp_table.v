// What turns a fraction t into 2^t: the bracket 2^t - t at the left edge of each 64th of [0, 1), combinational.
//
// address  the leading 6 bits of the fraction
// bracket  with POINT + 4 fraction bits, rounded to nearest; 1 at address 0
//
// The 64 entries are computed at elaboration by multiplying with the 64th root of 2, 60 fraction bits wide.
module exp_table #(
    parameter POINT = 8
) (
    input [5:0] address,
    output [POINT+4:0] bracket
);
    localparam FRACTION_BITS = POINT + 4;
    localparam ENTRY_BITS = FRACTION_BITS + 1;
    localparam [127:0] ONE = 128'd1 << 60;
    localparam [127:0] ROOT = 128'd1165475996665667822;

    function [64*ENTRY_BITS-1:0] entries(input [127:0] start);
        integer edge_number;
        reg [127:0] power;
        reg [127:0] difference;
        begin
            power = start;
            for (edge_number = 0; edge_number < 64; edge_number = edge_number + 1) begin
                difference = power - edge_number * (ONE >> 6) + (ONE >> (FRACTION_BITS + 1)); // half of the last bit, to round
                entries[edge_number*ENTRY_BITS+:ENTRY_BITS] = difference >> (60 - FRACTION_BITS);
                power = (power * ROOT) >> 60;
            end
        end
    endfunction

    localparam [64*ENTRY_BITS-1:0] ENTRIES = entries(ONE);

    word_select #(.WORDS(64), .BITS(ENTRY_BITS)) entry_select (.words(ENTRIES), .select(address), .word(bracket));
endmodule

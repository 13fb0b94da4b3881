// Top-k cascade: the KEPT largest of every BLOCK elements that stream past, in order of size, a rank a cycle.
//
// enable      there is an element; gaps may stand anywhere
// kept_index  of each stage, stage 0 in the low bits; stage r holds that of the r-th largest while valid[r]
//
// Rank r of a block is there r + 1 cycles after the block's last element has come. Model: accel_models/dynax_top_k.py.
module top_k #(
    parameter DATA_BITS = 16,
    parameter BLOCK = 32,
    parameter KEPT = 8,
    parameter INDEX_BITS = $clog2(BLOCK)
) (
    input clock,
    input reset,
    input enable,
    input [DATA_BITS-1:0] data,
    output [KEPT*DATA_BITS-1:0] passed_on,
    output [KEPT*INDEX_BITS-1:0] kept_index,
    output [KEPT-1:0] valid
);
    reg [INDEX_BITS-1:0] position;
    wire last = enable && position == BLOCK - 1;
    wire [KEPT*INDEX_BITS-1:0] passed_on_index;

    always @(posedge clock)
        if (reset || last) position <= 0;
        else if (enable) position <= position + 1'b1;

    genvar number;
    generate
        for (number = 0; number < KEPT; number = number + 1) begin : stages
            wire [DATA_BITS-1:0] element;
            wire [INDEX_BITS-1:0] index;
            wire ends;
            if (number == 0) begin : first
                assign element = enable ? data : {DATA_BITS{1'b0}};
                assign index = position;
                assign ends = last;
            end else begin : later
                assign element = passed_on[(number-1)*DATA_BITS+:DATA_BITS];
                assign index = passed_on_index[(number-1)*INDEX_BITS+:INDEX_BITS];
                assign ends = valid[number-1];
            end
            top_k_stage #(.DATA_BITS(DATA_BITS), .INDEX_BITS(INDEX_BITS)) stage (
                .clock(clock), .reset(reset), .element(element), .index(index), .last(ends),
                .passed_on(passed_on[number*DATA_BITS+:DATA_BITS]),
                .passed_on_index(passed_on_index[number*INDEX_BITS+:INDEX_BITS]),
                .kept_index(kept_index[number*INDEX_BITS+:INDEX_BITS]),
                .valid(valid[number])
            );
        end
    endgenerate
endmodule

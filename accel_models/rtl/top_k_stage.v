// A stage of the top-k cascade: keeps the largest element that it sees and passes on the other one, a cycle later.
//
// element  0: there is none; of equal elements that of the lower index is kept
// last     the element is the last of its block (or none has come since): what is kept may go after this edge
// valid    kept_index is that of the block that has just ended
//
// Model: accel_models/dynax_top_k.py, with all repairs.
module top_k_stage #(
    parameter DATA_BITS = 16,
    parameter INDEX_BITS = 5
) (
    input clock,
    input reset,
    input [DATA_BITS-1:0] element,
    input [INDEX_BITS-1:0] index,
    input last,
    output reg [DATA_BITS-1:0] passed_on,
    output reg [INDEX_BITS-1:0] passed_on_index,
    output reg [INDEX_BITS-1:0] kept_index,
    output reg valid
);
    reg [DATA_BITS-1:0] kept;
    wire same = element == kept && |element;
    wire displaces = element > kept || (same && index < kept_index);

`ifndef SYNTHESIS
    initial {passed_on_index, kept_index} = 0; // of no meaning until elements have come; the models start at 0
`endif

    always @(posedge clock)
        if (reset) {kept, passed_on, valid} <= 0;
        else begin
            valid <= last;
            passed_on <= displaces ? kept : element;
            kept <= last ? {DATA_BITS{1'b0}} : displaces ? element : kept;
        end

    always @(posedge clock) begin
        passed_on_index <= displaces ? kept_index : index;
        if (displaces) kept_index <= index;
    end
endmodule

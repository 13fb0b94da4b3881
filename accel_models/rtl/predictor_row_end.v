// Behind a row of prediction PEs: exponential of each key's score, and its sums over the row and over every 32 keys.
//
// command      0 idle, 1 clear, 2 calc
// psum         signed, becomes a fixed-point word with APPEND zeros below it; counted if key_valid
// group_full   the counter of the group's keys stood at its end
//
// Scores enter the register `exponential` in one cycle, and the sums in the next. Model: accel_models/dynax_predictor_array.py.
module predictor_row_end #(
    parameter PSUM_BITS = 13,
    parameter APPEND = 2,
    parameter BITS = 16,
    parameter POINT = 8
) (
    input clock,
    input [1:0] command,
    input [PSUM_BITS-1:0] psum,
    input key_valid,
    output reg [BITS-1:0] exponential,
    output reg [BITS-1:0] row_sum,
    output reg [BITS-1:0] group_sum,
    output reg [4:0] group_count,
    output reg group_full
);
    localparam CLEAR = 2'd1, CALC = 2'd2;

    reg exponential_valid;
    wire [PSUM_BITS+APPEND-1:0] score = psum << APPEND;
    wire [BITS-1:0] power;
    two_way_exp #(.INPUT_BITS(PSUM_BITS + APPEND), .BITS(BITS), .POINT(POINT)) exp_unit (.x(score), .y(power));

`ifndef SYNTHESIS
    initial {exponential, exponential_valid, row_sum, group_sum, group_count, group_full} = 0; // silicon needs a clear first
`endif

    always @(posedge clock)
        case (command)
            CLEAR: {exponential, exponential_valid, row_sum, group_sum, group_count, group_full} <= 0;
            CALC: begin
                exponential <= key_valid ? power : {BITS{1'b0}};
                exponential_valid <= key_valid;
                row_sum <= row_sum + exponential;
                group_sum <= (|group_count ? group_sum : {BITS{1'b0}}) + exponential;
                group_full <= &group_count;
                group_count <= group_count + exponential_valid;
            end
            default: ;
        endcase
endmodule

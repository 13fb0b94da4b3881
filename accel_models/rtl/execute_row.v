// A row of execution PEs: a register for its query element, one for each of the KEYS columns, and an adder over its PEs.
//
// clear        query, columns and adder; accumulate, exponentiate, select: see reconfigurable_pe, the same for all PEs but select
// columns      registered columns_above, offered to PEs here and to the row below
// adder        what the PEs offered in the last cycle, summed modulo 2^BITS
module execute_row #(
    parameter PES = 4,
    parameter KEYS = 32,
    parameter BITS = 16,
    parameter POINT = 8,
    parameter SELECT_BITS = $clog2(KEYS + 1)
) (
    input clock,
    input clear,
    input [1:0] accumulate,
    input exponentiate,
    input [PES*SELECT_BITS-1:0] select,
    input [BITS-1:0] query_left,
    input [KEYS*BITS-1:0] columns_above,
    output reg [KEYS*BITS-1:0] columns,
    output reg [BITS-1:0] adder
);
    reg [BITS-1:0] query;
    wire [PES*BITS-1:0] offered;
    reg [BITS-1:0] total;
    integer number;

    always @* begin
        total = 0;
        for (number = 0; number < PES; number = number + 1) total = total + offered[number*BITS+:BITS];
    end

`ifndef SYNTHESIS
    initial {query, columns, adder} = 0; // silicon needs a clear first
`endif

    always @(posedge clock)
        if (clear) {query, columns, adder} <= 0;
        else begin
            query <= query_left;
            columns <= columns_above;
            adder <= total;
        end

    genvar pe_number;
    generate
        for (pe_number = 0; pe_number < PES; pe_number = pe_number + 1) begin : pes
            reconfigurable_pe #(.KEYS(KEYS), .BITS(BITS), .POINT(POINT)) pe (
                .clock(clock), .accumulate(accumulate), .exponentiate(exponentiate), .query(query), .columns(columns),
                .select(select[pe_number*SELECT_BITS+:SELECT_BITS]), .offered(offered[pe_number*BITS+:BITS])
            );
        end
    endgenerate
endmodule

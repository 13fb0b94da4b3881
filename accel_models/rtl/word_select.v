// One of WORDS words, combinational.
//
// words    side by side, number 0 in the low bits
// select   which one; WORDS or more: zero
module word_select #(
    parameter WORDS = 32,
    parameter BITS = 16,
    parameter SELECT_BITS = $clog2(WORDS)
) (
    input [WORDS*BITS-1:0] words,
    input [SELECT_BITS-1:0] select,
    output [BITS-1:0] word
);
    genvar place, number;
    generate
        for (place = 0; place < BITS; place = place + 1) begin : places
            wire [WORDS-1:0] bits; // of all words at this place: a multiplexer of single bits, where select × BITS would make a shifter
            for (number = 0; number < WORDS; number = number + 1) begin : numbers
                assign bits[number] = words[number*BITS+place];
            end
            assign word[place] = select < WORDS && bits[select];
        end
    endgenerate
endmodule

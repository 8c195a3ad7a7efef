%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
// embedding_backward.wgsl - sums of gradient rows, added to the table rows that tokens used
// Computes   for each piece (first, count, table, row): s = sum of rows[list[i],:] for i = first .. first + count - 1;
//            then table 0: token_type[row,:] += s; 1: position[row,:] += s; 2: word[row,:] += s; 3: sums[row,:] = s
// Twins      src/ops/embedding_backward/ (definition, reference), src/ops/segments.rs (pieces),
//            kernels/embedding_backward.ptx
// Entry      embedding_backward
//
// Shapes     rows [t, d] f32: the gradients of tokens, or the sums of the level before; list [3 t] u32; pieces [n, 4]
//            u32; word [vocab, d], position [max_positions, d], token_type [types, d], sums [m, d] f32
// Layout     row-major, last axis contiguous, 16-byte aligned
// Requires   d % 8 == 0; every row in its table, no two pieces with the same table and row (checked on the host)
//
// Launch     ceil(n d / 4 / 64) workgroups of 64, spread over x and y; once per level
// Mapping    one invocation adds up four neighbouring elements of a piece
// Memory     none
// Sync       none
// Limits     none beyond the defaults
//
// Work       rows of all pieces times d additions
// Traffic    4 d per row read; 8 d per table row (read and written), 4 d per sum; lists
// Roofline   memory bound (0.25 FLOP/B)
// Measured   see benches/results
//
// Numerics   additions one after the other, at most 31 in a piece, then one to the table: |error| <= g(count) (|before|
//            + sum |row|), u = 2^-23
// Edges      n = 0: not launched; NaN in -> NaN in its table rows
struct Params { n: u32, d: u32 }
var<immediate> p: Params;

// Vectors of four in a row.
fn d4() -> u32 { return p.d / 4u; }

${array(0, "rows", "f32", "read", native)}
@group(0) @binding(1) var<storage, read> list: array<u32>;
@group(0) @binding(2) var<storage, read> pieces: array<vec4<u32>>;
${array(3, "word", "f32", "read_write", native)}
${array(4, "position", "f32", "read_write", native)}
${array(5, "token_type", "f32", "read_write", native)}
${array(6, "sums", "f32", "read_write", native)}

@compute @workgroup_size(64)
fn embedding_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i >= p.n * d4() {
        return;
    }
    let piece = pieces[i / d4()];
    let c = i % d4();
    var sum = vec4<f32>();
    for (var k = piece.x; k < piece.x + piece.y; k += 1u) {
        sum += load_rows(list[k] * d4() + c);
    }
    let to = piece.w * d4() + c;
    switch piece.z {
        case 0u: { store_token_type(to, load_token_type(to) + sum); }
        case 1u: { store_position(to, load_position(to) + sum); }
        case 2u: { store_word(to, load_word(to) + sum); }
        default: { store_sums(to, sum); }
    }
}

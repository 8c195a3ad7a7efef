%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
// embedding.wgsl - word, position and token-type rows added into the residual stream
// Computes   x[t,:] = word[ids[t],:] + position[positions[t],:] + token_type[0,:]
// Twin       src/ops/embedding/ (definition, reference), kernels/embedding.ptx
// Entry      embedding
//
// Shapes     word [vocab, d], position [max_positions, d], token_type [types, d] f16 or f32 (variant `table`);
//            ids, positions [t] u32; x [t, d] f32
// Layout     row-major, last axis contiguous, 16-byte aligned
// Requires   d % 8 == 0; ids < vocab, positions < max_positions (checked on the host)
//
// Launch     ceil(t d / 4 / 64) workgroups of 64, spread over x and y
// Mapping    one invocation adds four neighbouring elements
// Memory     none
// Sync       none
// Limits     none beyond the defaults
//
// Work       2 t d additions
// Traffic    t d (sizeof(table) + 4) + 8 t bytes; position and token-type rows stay in cache
// Roofline   memory bound (about 0.3 FLOP/B)
// Measured   see benches/results
//
// Numerics   two f32 additions in the order written: |error| <= g(2) (|word| + |position| + |token_type|), u = 2^-23
// Edges      t = 0: not launched; NaN in -> NaN out
struct Params { t: u32, d: u32 }
var<immediate> p: Params;

// Vectors of four in a row.
fn d4() -> u32 { return p.d / 4u; }

${array(0, "word", table, "read", native)}
${array(1, "position", table, "read", native)}
${array(2, "token_type", table, "read", native)}
@group(0) @binding(3) var<storage, read> ids: array<u32>;
@group(0) @binding(4) var<storage, read> positions: array<u32>;
${array(5, "x", "f32", "read_write", native)}

@compute @workgroup_size(64)
fn embedding(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i >= p.t * d4() {
        return;
    }
    let t = i / d4();
    let c = i % d4();
    store_x(i, load_word(ids[t] * d4() + c) + load_position(positions[t] * d4() + c) + load_token_type(c));
}

%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
%% from "_philox.wgsl" import philox
// dropout.wgsl - elements dropped at random, in place
// Computes   x = mask x kept, element i of a row dropped if word i % 4 of Philox4x32-10 is below the threshold
// Twins      src/ops/dropout/ (definition, reference), kernels/dropout.ptx
// Entry      dropout
//
// Shapes     x [n, 4 fours] f16 or f32 (variant `act`); origins [n, 2] u32: position of a row's token in its text, number
//            of the text. Counter of element i: (i / 4, position, number, 0)
// Layout     row-major, last axis contiguous, 16-byte aligned, no aliasing
// Requires   nothing further
//
// Launch     ceil(n fours / 64) workgroups of 64, spread over x and y; a launch has the rows of one binding
// Mapping    one invocation has 4 elements
// Memory     none
// Sync       none
// Limits     none beyond the defaults
//
// Work       per 4 elements 80 products of 16 x 16 bits and 40 of 32, some 200 other integer operations
// Traffic    2 elements a value + 8 n bytes
// Roofline   bound by integers
// Measured   see benches/results
//
// Numerics   masks are integers and equal on every device; one product per element
// Edges      n = 0: not launched; a dropped NaN or infinity becomes 0
struct Params { n: u32, fours: u32, threshold: u32, kept: f32, key_0: u32, key_1: u32 }
var<immediate> p: Params;

${array(0, "x", act, "read_write", native)}
@group(0) @binding(1) var<storage, read> origins: array<vec2<u32>>;

${philox()}
@compute @workgroup_size(64)
fn dropout(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i >= p.n * p.fours {
        return;
    }
    let origin = origins[i / p.fours];
    let words = philox(vec2<u32>(p.key_0, p.key_1), vec4<u32>(i % p.fours, origin, 0u));
    store_x(i, select(load_x(i) * p.kept, vec4<f32>(), words < vec4<u32>(p.threshold)));
}

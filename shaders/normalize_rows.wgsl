%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
%% from "_group_sum.wgsl" import group_sum, who_inputs, who_value
// normalize_rows.wgsl - rows of unit length in f16, on request also in f32, and their lengths
// Computes   rows[i,:] = x[i,:] / max(|x[i,:]|, 1e-12);  unit: the same, not rounded to f16;  norms[i] = |x[i,:]|
// Twins      src/ops/normalize_rows.rs (definition, reference), kernels/normalize_rows.ptx
// Entry      normalize_rows
//
// Shapes     x [n, d] f32; rows [n, d] f16; unit [n, d] f32 or absent (variant `unit`); norms [n] f32 or absent (variant
//            `norms`)
// Layout     row-major, last axis contiguous, 16-byte aligned, no aliasing
// Requires   d % 8 == 0
//
// Launch     one workgroup of 64 per row, spread over x and y
// Mapping    invocation i takes elements 4 i .. 4 i + 3, then 4 (i + 64) .. and so on
// Memory     64 f32 of workgroup memory for the sum
// Sync       two barriers and one per halving (6), two with subgroups (_group_sum.wgsl)
// Limits     none beyond the defaults
//
// Work       3 n d FLOP
// Traffic    n d (6 + 4 unit) + 4 n norms bytes; the row is read again from cache
// Roofline   memory bound (0.5 FLOP/B)
// Measured   see benches/results
//
// Numerics   the sum in a fixed tree, one root, one division per element; bound in error_bound of the twin
// Edges      n = 0: not launched; a zero row stays zero; a row longer than 1.8e19 has an infinite norm; NaN: no promise
//
//   sum  = group_sum(x^2)
//   norm = sqrt(sum)
//   rows = f16(x / max(norm, 1e-12))       x read again
struct Params { n: u32, d: u32 }
var<immediate> p: Params;

// Vectors of four in a row.
fn d4() -> u32 { return p.d / 4u; }

${array(0, "x", "f32", "read", native)}
${array(1, "rows", "f16", "read_write", native)}
%% if unit
${array(2, "unit", "f32", "read_write", native)}
%% endif
%% if norms
@group(0) @binding(${3 if unit else 2}) var<storage, read_write> norms: array<f32>;
%% endif

const GROUP: u32 = 64u;
${group_sum(subgroups)}
@compute @workgroup_size(GROUP)
fn normalize_rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
${who_inputs(subgroups)}
) {
    let row = group.x + group.y * groups.x;
    if row >= p.n {
        return;
    }
${who_value(subgroups)}
    let base = row * d4();
    var squares = 0.0;
    for (var c = lane; c < d4(); c += GROUP) {
        let v = load_x(base + c);
        squares += dot(v, v);
    }
    let norm = sqrt(group_sum(squares, who));
%% if norms
    if lane == 0u {
        norms[row] = norm;
    }
%% endif
    let divisor = max(norm, 1.0e-12);
    for (var c = lane; c < d4(); c += GROUP) {
        let scaled = load_x(base + c) / divisor;
        store_rows(base + c, scaled);
%% if unit
        store_unit(base + c, scaled);
%% endif
    }
}
